"""The postprocessor in LlamaIndex's own query engine, over its own index, with its own mock model that echoes."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms.mock import MockLLM
from llama_index.core.schema import (
    Document,
    ImageNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from pydantic import ValidationError

from ctxcomp import Budget, InputError, load, resolve_counter
from ctxcomp.integrations.llama_index import CtxcompNodePostprocessor

# LlamaIndex imports langchain-community where it is installed, which says so.
pytestmark = pytest.mark.filterwarnings("ignore:`langchain-community` is being sunset:DeprecationWarning")

QUESTION = "Who wrote Middlemarch?"
TEXTS = [
    "Middlemarch is a novel. George Eliot wrote Middlemarch. It is set in the Midlands. It has eight books.",
    "Bees make honey. A hive holds thousands of them. They dance to show the way.",
    "George Gissing wrote New Grub Street. It appeared in 1891. Its subject is literary London.",
]


class Letters(BaseEmbedding):
    """Counts of letters: a real index needs vectors, and these need no model."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return [1.0 + text.lower().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


@pytest.fixture
def nodes() -> list[TextNode]:
    nodes = [
        TextNode(text=text, id_=f"node-{i}", metadata={"file": f"{i}.txt", "nothing": None}, start_char_idx=i)
        for i, text in enumerate(TEXTS)
    ]
    nodes[0].relationships = {
        NodeRelationship.NEXT: RelatedNodeInfo(node_id="node-1"),
        NodeRelationship.SOURCE: RelatedNodeInfo(node_id="book"),
    }
    return nodes


def scored(nodes: list[Any]) -> list[NodeWithScore]:
    return [NodeWithScore(node=node, score=0.9 - i / 10) for i, node in enumerate(nodes)]


def postprocessor(**fields: Any) -> CtxcompNodePostprocessor:
    return CtxcompNodePostprocessor(**{"budget": {"tokens": 14}, "method": "bm25", **fields})


def test_nodes_keep_everything_but_their_text(nodes):
    given = scored(nodes)
    before = copy.deepcopy(given)
    left = postprocessor().postprocess_nodes(given, query_bundle=QueryBundle(QUESTION))
    assert given == before
    assert [one.node.node_id for one in left] == ["node-0"]
    node = left[0].node
    assert isinstance(node, TextNode)
    assert (left[0].score, node.relationships, node.start_char_idx) == (0.9, nodes[0].relationships, 0)
    record = node.metadata.pop("ctxcomp")
    assert node.metadata == nodes[0].metadata
    assert json.loads(json.dumps(record)) == record
    assert "George Eliot wrote Middlemarch." in [TEXTS[0][s["start"] : s["end"]] for s in record["spans"]]
    assert resolve_counter().count(node.text) == record["stats"]["tokens_out"] <= 14


def test_neither_model_nor_embeddings_see_the_record(nodes):
    (node, *_) = postprocessor().postprocess_nodes(scored(nodes), query_str=QUESTION)
    for mode in (MetadataMode.LLM, MetadataMode.EMBED):
        assert "ctxcomp" not in node.get_content(mode)
        assert "file: 0.txt" in node.get_content(mode)
    again = postprocessor().postprocess_nodes([node], query_str=QUESTION)[0].node
    assert again.excluded_llm_metadata_keys == ["ctxcomp"]
    assert again.metadata["ctxcomp"]["before"]["spans"]


@pytest.mark.parametrize("use_async", [False, True])
def test_in_a_query_engine(nodes, use_async):
    index = VectorStoreIndex(nodes, embed_model=Letters())
    engine = index.as_query_engine(
        llm=MockLLM(), similarity_top_k=3, node_postprocessors=[postprocessor()], use_async=use_async
    )
    response = engine.query(QUESTION)
    prompt = str(response)  # the mock model answers with its prompt
    assert "George Eliot wrote Middlemarch." in prompt
    assert "Bees" not in prompt
    assert "spans" not in prompt
    assert [source.node.node_id for source in response.source_nodes] == ["node-0"]
    assert response.source_nodes[0].score is not None


@pytest.mark.asyncio
async def test_async_equals_sync(nodes):
    left = await postprocessor().apostprocess_nodes(scored(nodes), query_str=QUESTION)
    same = postprocessor().postprocess_nodes(scored(nodes), query_str=QUESTION)
    assert [one.get_content() for one in left] == [one.get_content() for one in same]
    assert "George Eliot" in str(
        await VectorStoreIndex(nodes, embed_model=Letters())
        .as_query_engine(llm=MockLLM(), node_postprocessors=[postprocessor()])
        .aquery(QUESTION)
    )


def test_images_are_handed_on_and_other_kinds_keep_their_kind():
    nodes = [
        ImageNode(image_url="https://example.org/a.png"),
        ImageNode(text="Rain falls. Snow falls.", image_url="https://example.org/b.png"),
        Node(text_resource=MediaResource(text=TEXTS[0]), id_="multi"),
        Document(text=TEXTS[0], id_="document"),
        TextNode(text=""),
    ]
    given = scored(nodes)
    left = postprocessor(budget={"tokens": 20}).postprocess_nodes(given, query_str="George Eliot Middlemarch")
    assert left[0] is given[0]
    assert [type(one.node) for one in left] == [ImageNode, ImageNode, Node, Document, TextNode]
    assert left[1].node.text == ""  # the picture stays though nothing of its text does
    assert left[1].node.image_url == "https://example.org/b.png"
    assert "George Eliot" in left[2].get_content()


def test_dropped_nodes_can_stay_in_place(nodes):
    left = postprocessor(drop_empty=False).postprocess_nodes(scored(nodes), query_str=QUESTION)
    assert [bool(one.get_content()) for one in left] == [True, False, False]


@pytest.mark.parametrize("texts", [[], [""], [" "], ["東京は日本の首都です。人口は多い。"], ["\x00", "x" * 200_000]])
@pytest.mark.parametrize("budget", [{"tokens": 0}, {"tokens": 5}, {"keep": 0.5}])
def test_any_text_any_budget(texts, budget):
    given = [NodeWithScore(node=TextNode(text=text, metadata={"title": None}), score=None) for text in texts]
    left = postprocessor(budget=budget).postprocess_nodes(given, query_str="")
    if "tokens" in budget:
        count = resolve_counter().count("\n\n".join(one.get_content() for one in left if one.get_content()))
        assert count <= budget["tokens"]


def test_scores_that_are_no_numbers_are_no_scores():
    given = [NodeWithScore(node=TextNode(text=f"Text {i}."), score=s) for i, s in enumerate([float("nan"), None, 0.5])]
    mine = postprocessor(method="truncate", options={"by_passage_score": True}, budget={"tokens": 4})
    (left,) = mine.postprocess_nodes(given, query_str="")
    assert left.get_content() == "Text 2."


def test_wrong_use_is_refused(nodes):
    with pytest.raises(InputError, match='query_str \\("" for none\\)'):
        postprocessor().postprocess_nodes(scored(nodes))
    with pytest.raises(ValidationError, match="did you mean 'bm25'"):
        postprocessor(method="bm52")
    with pytest.raises(ValidationError, match="budget"):
        CtxcompNodePostprocessor()


def test_settings_survive_a_round_trip():
    mine = postprocessor(budget=Budget(keep=0.5), options={"unit": "word"})
    again = CtxcompNodePostprocessor.from_dict(json.loads(mine.to_json()))
    assert (again.budget, again.method, again.options) == (Budget(keep=0.5), "bm25", {"unit": "word"})
    assert again.class_name() == "CtxcompNodePostprocessor"
    assert postprocessor(method=load("truncate")).postprocess_nodes([], query_str="") == []


def test_without_llama_index_the_error_says_what_to_install(error_without):
    assert "pip install 'ctxcomp[llama-index]'" in error_without("llama_index", "ctxcomp.integrations.llama_index")
