"""`CompressedRetriever`: a retriever whose documents come compressed."""

from __future__ import annotations

import inspect
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import Field

from ctxcomp.errors import InputError
from ctxcomp.integrations.langchain.fields import DocumentFields
from ctxcomp.integrations.langchain.runnable import CompressContext
from ctxcomp.integrations.settings import budget_of


class CompressedRetriever(DocumentFields, BaseRetriever):
    """Asks another retriever and compresses what it finds, all documents under one budget.

    ``retriever.invoke(query, k=3, budget={"tokens": 200})`` overrides both for one call.
    """

    retriever: Runnable[Any, Any]
    """The retriever to ask. It is asked for ``k`` documents if it takes ``k`` in a call."""

    k: int | None = Field(default=None, ge=1)
    """How many documents to return, the first ones that were found; fewer only if fewer were found, so with ``k``
    documents of which nothing is kept stay, empty. None for all of which something is kept."""

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        budget: Any = None,
    ) -> list[Document]:
        wanted = self._wanted(k)
        config: RunnableConfig = {"callbacks": run_manager.get_child()}
        found = self.retriever.invoke(query, config, **self._asked(wanted))
        documents = self._compress(wanted, budget).invoke(found[:wanted], config, query=query)
        return list(documents)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        budget: Any = None,
    ) -> list[Document]:
        wanted = self._wanted(k)
        config: RunnableConfig = {"callbacks": run_manager.get_child()}
        found = await self.retriever.ainvoke(query, config, **self._asked(wanted))
        documents = await self._compress(wanted, budget).ainvoke(found[:wanted], config, query=query)
        return list(documents)

    def _wanted(self, k: int | None) -> int | None:
        if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
            raise InputError(f"k must be a whole number >= 1, got {k!r}")
        return self.k if k is None else k

    def _asked(self, k: int | None) -> dict[str, int]:
        """What to ask the inner retriever beside the query: a parameter it does not know would be an error there."""
        if k is None or not isinstance(self.retriever, BaseRetriever):
            return {}
        parameters = inspect.signature(self.retriever._get_relevant_documents).parameters
        takes = "k" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        return {"k": k} if takes else {}

    def _compress(self, k: int | None, budget: Any) -> CompressContext:
        changes = {
            "budget": self.budget if budget is None else budget_of(budget),
            "drop_empty": self.drop_empty and k is None,
            "output": "documents",
        }
        return CompressContext(**{**self.shared_fields(), **changes})
