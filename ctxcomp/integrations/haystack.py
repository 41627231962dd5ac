"""Haystack: a component that stands between a retriever and a prompt builder."""
# ruff: noqa: E402
# No `from __future__ import annotations`: Haystack 2 compares the annotations of inputs and outputs as they stand.

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ctxcomp.optional import require

require("haystack", extra="haystack")

from haystack import Document, component, default_from_dict, default_to_dict

from ctxcomp.compressor import Compressor
from ctxcomp.errors import InputError
from ctxcomp.integrations.records import described, finite, passage_records, stats_record, titled
from ctxcomp.integrations.settings import METADATA_KEY, budget_of, compressor_of
from ctxcomp.registry import DEFAULT_METHOD
from ctxcomp.types import Budget, CompressedText, Passage


@component
class CtxcompDocumentCompressor:
    """Documents in, what is left of them out, all under one budget.

    Ids, scores and metadata stay; the documents that came in are not changed. Documents without text, such as images,
    are handed on as they are. Pipeline files with it are loaded by ``Pipeline.load(file,
    allowed_modules=["ctxcomp.integrations.haystack"])``.

    Parameters
    ----------
    budget: what may remain of all documents of a run together: a `Budget`, ``{"tokens": N}`` or ``{"keep": F}``.
    method: a method's name as `ctxcomp.load` takes it, or a ready compressor (which cannot be serialised).
    options: the fields of a method given by name.
    metadata_key: key of ``Document.meta`` for its ``spans`` (characters of the document that came in), its best
        ``score`` and the ``stats`` of the run, all plain JSON; a record from an earlier compression moves to
        ``before``. None writes nothing.
    title_key: key of ``Document.meta`` where its title stands, for ``header`` and ``elision`` templates.
    drop_empty: leave out documents of which nothing is kept; otherwise they stay in their place, empty.
    """

    def __init__(
        self,
        budget: Budget | Mapping[str, Any],
        method: str | Compressor[CompressedText] = DEFAULT_METHOD,
        options: Mapping[str, Any] | None = None,
        metadata_key: str | None = METADATA_KEY,
        title_key: str | None = "title",
        drop_empty: bool = True,
    ) -> None:
        self.budget = budget_of(budget)
        self.method = method
        self.options = dict(options or {})
        self.metadata_key = metadata_key
        self.title_key = title_key
        self.drop_empty = drop_empty
        self._compressor = compressor_of(method, self.options)

    def warm_up(self) -> None:
        """Load the weights, which otherwise happens in the first run."""
        self._compressor.compress("warm up", [Passage("One sentence. Another one.")], Budget(tokens=3))

    @component.output_types(documents=list[Document], stats=dict[str, Any])
    def run(self, query: str, documents: list[Document], budget: dict[str, Any] | None = None) -> dict[str, Any]:
        """Compress the documents for the query.

        Parameters
        ----------
        query: "" for none.
        documents: in the order in which they are to stand.
        budget: ``{"tokens": N}`` or ``{"keep": F}``, in place of the component's own.

        Raises
        ------
        InputError: an argument is of the wrong kind.
        BudgetError: text that must be kept does not fit into the budget.
        """
        room = self.budget if budget is None else budget_of(budget)
        own = [i for i, document in enumerate(documents) if document.content is not None]
        result = self._compressor.compress(query, [self._passage(documents[i]) for i in own], room)
        left: list[Document | None] = list(documents)
        for i, text, record in zip(own, result.passage_texts, passage_records(result), strict=True):
            meta = described(documents[i].meta, record, self.metadata_key)
            stays = text or not self.drop_empty or documents[i].blob is not None
            left[i] = replace(documents[i], content=text, meta=meta) if stays else None
        kept = [document for document in left if document is not None]
        return {"documents": kept, "stats": stats_record(result.stats)}

    @component.output_types(documents=list[Document], stats=dict[str, Any])
    async def run_async(
        self, query: str, documents: list[Document], budget: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """As `run`; the work is done in a thread."""
        outputs: dict[str, Any] = await asyncio.to_thread(self.run, query, documents, budget)
        return outputs

    def to_dict(self) -> dict[str, Any]:
        """The component for a pipeline file.

        Raises
        ------
        InputError: the method is a ready compressor.
        """
        if not isinstance(self.method, str):
            raise InputError("a ready compressor cannot be written to a pipeline file: give its name and options")
        return default_to_dict(
            self,
            budget={k: v for k in ("tokens", "keep") if (v := getattr(self.budget, k)) is not None},
            method=self.method,
            options=self.options,
            metadata_key=self.metadata_key,
            title_key=self.title_key,
            drop_empty=self.drop_empty,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "CtxcompDocumentCompressor":
        """The component of a pipeline file."""
        made: CtxcompDocumentCompressor = default_from_dict(cls, data)
        return made

    def _passage(self, document: Document) -> Passage:
        return Passage(
            document.content or "",
            id=document.id,
            title=titled(document.meta, self.title_key),
            score=finite(document.score),
            metadata=document.meta,
            embedding=document.embedding,
        )
