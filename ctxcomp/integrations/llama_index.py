"""LlamaIndex: a node postprocessor for query engines, ``node_postprocessors=[CtxcompNodePostprocessor(...)]``."""
# ruff: noqa: E402

from __future__ import annotations

from ctxcomp.optional import require

require("llama_index.core", extra="llama-index")

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle

from ctxcomp.errors import InputError
from ctxcomp.integrations.fields import CompressionFields
from ctxcomp.integrations.records import Record, described, finite, passage_records, titled
from ctxcomp.types import Passage

_MEDIA = ("image", "image_path", "image_url", "image_resource", "audio_resource", "video_resource")


class CtxcompNodePostprocessor(CompressionFields, BaseNodePostprocessor):
    """Nodes in, what is left of their text out, all under one budget.

    Ids, metadata, scores and relationships stay; the nodes that came in are not changed. Spans, score and statistics
    stand under ``metadata_key``, which is hidden from the model and from embeddings. Nodes without text, such as
    images, are handed on as they are. The budget is for the texts, not for metadata that LlamaIndex puts before them.
    """

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex stores."""
        return "CtxcompNodePostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InputError('nodes are compressed for a query: give query_bundle or query_str ("" for none)')
        texts = [node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes]
        own = [i for i, text in enumerate(texts) if text]
        passages = [self._passage(nodes[i], texts[i]) for i in own]
        result = self._compressor.compress(query_bundle.query_str, passages, self.budget)
        left: list[NodeWithScore | None] = list(nodes)
        for i, text, record in zip(own, result.passage_texts, passage_records(result), strict=True):
            stays = text or not self.drop_empty or _shows_more(nodes[i].node)
            left[i] = self._copy(nodes[i], text, record) if stays else None
        return [node for node in left if node is not None]

    def _passage(self, scored: NodeWithScore, text: str) -> Passage:
        node = scored.node
        return Passage(
            text,
            id=node.node_id,
            title=titled(node.metadata, self.title_key),
            score=finite(scored.score),
            metadata=node.metadata,
            embedding=node.embedding,
        )

    def _copy(self, scored: NodeWithScore, text: str, record: Record) -> NodeWithScore:
        node = scored.node
        hidden = [] if self.metadata_key is None else [self.metadata_key]
        copy = node.model_copy(
            update={
                "metadata": described(node.metadata, record, self.metadata_key),
                # What the model reads is the text; without this LlamaIndex writes the record before it.
                "excluded_llm_metadata_keys": _with(node.excluded_llm_metadata_keys, hidden),
                "excluded_embed_metadata_keys": _with(node.excluded_embed_metadata_keys, hidden),
            }
        )
        copy.set_content(text)
        return scored.model_copy(update={"node": copy})


def _shows_more(node: BaseNode) -> bool:
    """Whether a node holds more than text."""
    return any(getattr(node, name, None) for name in _MEDIA)


def _with(keys: list[str], more: list[str]) -> list[str]:
    return [*keys, *(key for key in more if key not in keys)]
