"""Inputs of `CompressContext` to requests, and results to its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.documents import Document
from langchain_core.runnables import RunnableConfig

from ctxcomp.errors import CtxcompError, InputError
from ctxcomp.integrations.langchain.documents import as_documents, compressed_documents, passages_of
from ctxcomp.integrations.langchain.fields import DocumentFields
from ctxcomp.integrations.records import context_record
from ctxcomp.integrations.settings import budget_of
from ctxcomp.types import CompressedText, Request, Stats

BUDGET_ID = "ctxcomp_budget"
"""The budget of one call: ``config={"configurable": {"ctxcomp_budget": {"tokens": 400}}}``."""


@dataclass(frozen=True, slots=True)
class Job:
    """One input, read."""

    given: Any
    documents: list[Document]
    request: Request


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an input becomes, and what it saved."""

    output: Any
    stats: Stats


class ContextFields(DocumentFields):
    """Where the question and the documents stand in an input, and what stands in the output."""

    question_key: str = "question"
    """Where the question stands in the input."""

    documents_key: str = "context"
    """Where the documents stand in the input, and what is left of them in the output."""

    output: Literal["text", "documents"] = "text"
    """What replaces the documents: the assembled text, or documents as `CtxcompDocumentCompressor` returns them."""

    def outcomes(
        self, inputs: Sequence[Any], configs: Sequence[RunnableConfig], query: str | None
    ) -> list[Outcome | CtxcompError]:
        """What each input becomes, or why it cannot."""
        jobs: list[Job | CtxcompError] = []
        for given, config in zip(inputs, configs, strict=True):
            try:
                jobs.append(self._job(given, config, query))
            except CtxcompError as error:
                jobs.append(error)
        results = iter(self._results([job.request for job in jobs if isinstance(job, Job)]))
        return [self._outcome(job, next(results)) if isinstance(job, Job) else job for job in jobs]

    def _job(self, given: Any, config: RunnableConfig, query: str | None) -> Job:
        documents = as_documents(self._part(given, self.documents_key) if isinstance(given, Mapping) else given)
        if query is None and not isinstance(given, Mapping):
            raise InputError(
                f"documents alone have no question: give {{{self.question_key!r}: ..., {self.documents_key!r}: ...}}, "
                'or bind(query="...") ("" for none)'
            )
        question = self._part(given, self.question_key) if query is None else query
        if not isinstance(question, str):
            raise InputError(f"the question must be a str (empty for none), got {type(question).__name__}")
        chosen = config.get("configurable", {}).get(BUDGET_ID)
        budget = self.budget if chosen is None else budget_of(chosen)
        return Job(given, documents, Request(question, passages_of(documents, self), budget))

    def _part(self, given: Mapping[str, Any], key: str) -> Any:
        if key not in given:
            raise InputError(
                f"the input has no {key!r}, it has {', '.join(map(repr, given)) or 'nothing'}: "
                "name the keys with question_key= and documents_key="
            )
        return given[key]

    def _results(self, requests: list[Request]) -> list[CompressedText | CtxcompError]:
        """All in one go; only if that fails each alone, so that one failure does not fail the others."""
        try:
            return list(self._compressor.compress_batch(requests)) if requests else []
        except CtxcompError as error:
            if len(requests) == 1:
                return [error]
        return [result for request in requests for result in self._results([request])]

    def _outcome(self, job: Job, result: CompressedText | CtxcompError) -> Outcome | CtxcompError:
        if isinstance(result, CtxcompError):
            return result
        left = result.text if self.output == "text" else compressed_documents(job.documents, result, self)
        if not isinstance(job.given, Mapping):
            return Outcome(left, result.stats)
        record = {} if self.metadata_key is None else {self.metadata_key: context_record(result)}
        return Outcome({**job.given, self.documents_key: left, **record}, result.stats)
