"""LangChain's EmbeddingsFilter, behind a splitter, as its users chain the two."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ctxcomp.counting import TokenCounter
from ctxcomp.encode import load_encoder
from ctxcomp.errors import InputError
from ctxcomp.optional import require
from ctxcomp.types import Passage, Span
from ctxcomp_eval.peers.base import Answer, Peer, Room, largest

EVERYTHING = 10**9
"""A ``k`` that keeps all documents; None would not: LangChain puts its default of 20 in its place."""
SEPARATOR = "\n\n"
"""What LangChain's stuffing chains put between documents."""


@dataclass(frozen=True, kw_only=True)
class LangchainEmbeddingsFilter(Peer):
    """``DocumentCompressorPipeline([CharacterTextSplitter, EmbeddingsRedundantFilter, EmbeddingsFilter])``.

    For each request ``k`` of ``EmbeddingsFilter`` is the largest whose documents, joined by blank lines, are within
    the budget by our counter: where the first one alone is over it, nothing is left. The splitter drops the full stop
    and blank at the end of a chunk.

    Parameters
    ----------
    model: what embeds: "minilm" or another encoder that ``ctxcomp.encode.load_encoder`` takes.
    chunk_characters: the splitter's ``chunk_size``, >= 1; None filters whole passages, without a splitter.
    redundant: whether near-duplicates (cosine above .95) go first.
    order: "source" puts the documents that were kept back into the order of the passages; "similarity" leaves them as
        LangChain returns them, the most similar first. Then there are no spans.
    """

    model: str = "minilm"
    chunk_characters: int | None = 300
    redundant: bool = True
    order: Literal["source", "similarity"] = "source"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk_characters is not None and self.chunk_characters < 1:
            raise InputError(f"chunk_characters must be 1 or more, or None, got {self.chunk_characters}")

    def answers(
        self, query: str, passages: tuple[Passage, ...], rooms: Sequence[Room], counter: TokenCounter
    ) -> list[Answer]:
        """The pipeline's own result with the ``k`` of each budget; what is embedded once is remembered."""
        embeddings = embeddings_of(self.model)
        began = time.perf_counter()
        ranked = self.pipeline(EVERYTHING, embeddings).compress_documents(documents_of(passages), query)
        seconds = time.perf_counter() - began
        answers = []
        for room in rooms:

            def fits(k: int, tokens: int = room.tokens) -> bool:
                return counter.count(joined(ranked[:k])) <= tokens

            best = self.pipeline(largest(0, len(ranked), fits), embeddings)
            answers.append(self._answer(best.compress_documents(documents_of(passages), query), passages, seconds))
        return answers

    def pipeline(self, k: int, embeddings: Any) -> Any:
        """LangChain's pipeline, as one gives it to ``ContextualCompressionRetriever``."""
        compressors, transformers = _modules()
        stages = [] if self.chunk_characters is None else [_splitter(self.chunk_characters)]
        if self.redundant:
            stages.append(transformers.EmbeddingsRedundantFilter(embeddings=embeddings))
        stages.append(compressors.EmbeddingsFilter(embeddings=embeddings, k=k))
        return compressors.DocumentCompressorPipeline(transformers=stages)

    def _answer(self, documents: Sequence[Any], passages: Sequence[Passage], seconds: float) -> Answer:
        pairs = sorted(((_span(document), document) for document in documents), key=lambda pair: pair[0].start)
        pairs.sort(key=lambda pair: pair[0].passage)
        spans = tuple(span for span, _ in pairs)
        shown = documents if self.order == "similarity" else [document for _, document in pairs]
        exact = self.order == "source" and all(
            span.start >= 0 and passages[span.passage].text[span.start : span.end] == document.page_content
            for span, document in pairs
        )
        left = tuple(joined([d for s, d in pairs if s.passage == i]) for i in range(len(passages)))
        return Answer(joined(shown), spans if exact else None, left, seconds)


def documents_of(passages: Sequence[Passage]) -> list[Any]:
    """LangChain documents that know their passage."""
    document = require("langchain_core.documents", extra="peers").Document
    return [document(page_content=p.text, metadata={"passage": i}) for i, p in enumerate(passages)]


def joined(documents: Sequence[Any]) -> str:
    """The context that the documents make."""
    return SEPARATOR.join(document.page_content for document in documents)


def embeddings_of(model: str) -> Any:
    """Our encoder behind LangChain's interface; it remembers what it has embedded."""
    interface = require("langchain_core.embeddings", extra="peers").Embeddings

    class Encoder(interface):  # type: ignore[misc, valid-type]
        """Unit vectors, as sentence-transformers makes them for all-MiniLM-L6-v2."""

        def __init__(self) -> None:
            self._known: dict[str, list[float]] = {}

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            fresh = [text for text in dict.fromkeys(texts) if text not in self._known]
            vectors = load_encoder(model).embed(fresh).tolist() if fresh else []
            self._known.update(zip(fresh, vectors, strict=True))
            return [self._known[text] for text in texts]

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    return Encoder()


def _span(document: Any) -> Span:
    start = document.metadata.get("start_index", 0)
    score = float(document.state["query_similarity_score"])
    return Span(document.metadata["passage"], start, start + len(document.page_content), score)


@functools.cache
def _modules() -> tuple[Any, Any]:
    """The compressors and the document transformers."""
    compressors = require("langchain_classic.retrievers.document_compressors", extra="peers")
    with warnings.catch_warnings():
        # langchain-community says at import that nobody maintains it; EmbeddingsFilter is built on it all the same.
        warnings.simplefilter("ignore", DeprecationWarning)
        return compressors, require("langchain_community.document_transformers", extra="peers")


def _splitter(characters: int) -> Any:
    plain = require("langchain_text_splitters", extra="peers").CharacterTextSplitter

    class Splitter(plain):  # type: ignore[misc, valid-type]
        """LangChain's splitter, which warns of each sentence that is longer than a chunk: that is no news here."""

        def split_text(self, text: str) -> list[str]:
            with _silent("langchain_text_splitters.base"):
                return list(super().split_text(text))

    return Splitter(chunk_size=characters, chunk_overlap=0, separator=". ", add_start_index=True)


@contextlib.contextmanager
def _silent(logger: str) -> Iterator[None]:
    found = logging.getLogger(logger)
    before, found.disabled = found.disabled, True
    try:
        yield
    finally:
        found.disabled = before
