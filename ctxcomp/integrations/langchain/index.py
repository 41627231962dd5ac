"""`IndexRetriever`: a LangChain retriever over a compressed index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables.config import run_in_executor
from pydantic import ConfigDict, Field, PrivateAttr

from ctxcomp.errors import InputError
from ctxcomp.index import Index
from ctxcomp.types import Passage


class IndexRetriever(BaseRetriever):
    """Finds documents in an index of `ctxcomp.index`; ``retriever.invoke(query, k=3)`` overrides ``k`` for one call.

    A document has its passage's text and id; its metadata are the passage's, with ``title`` and ``score`` beside them.
    """

    index: Index | str | Path
    """An index, or the directory of one, which is read once."""

    k: int = Field(default=10, ge=1)
    """How many documents to return; fewer come if there are fewer."""

    embed_query: Callable[[str], Sequence[float]] | None = None
    """Makes a query's vector where the index holds vectors of your own: ``embeddings.embed_query``, for example."""

    score_key: str = "score"
    """Key of a document's metadata for its score."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    _index: Index = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Read the index, so that a damaged one fails here and not in a call."""
        super().model_post_init(context)
        self._index = self.index if isinstance(self.index, Index) else Index.load(self.index)
        if self._index.source.encoder is None and self.embed_query is None:
            raise InputError("the index holds vectors of your own: give embed_query=, a function from text to vector")

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun | None, k: int | None = None
    ) -> list[Document]:
        asked = query if self.embed_query is None else self.embed_query(query)
        found = self._index.search(asked, self.k if k is None else k, embeddings=False)
        return [self._document(passage) for passage in found]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return await run_in_executor(None, self._get_relevant_documents, query, run_manager=None, k=k)

    def _document(self, passage: Passage) -> Document:
        title = {} if passage.title is None else {"title": passage.title}
        metadata = {**title, **passage.metadata, self.score_key: passage.score}
        return Document(passage.text, id=passage.id or None, metadata=metadata)
