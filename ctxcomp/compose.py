"""Compressors made of compressors: `Chain` from coarse to fine, and `FallbackToInput`."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ctxcomp.compressor import Compressor, snake_case
from ctxcomp.counting import CounterLike
from ctxcomp.errors import InputError
from ctxcomp.fields import check_fields
from ctxcomp.segment import GAP
from ctxcomp.text.truncate import Truncate
from ctxcomp.types import Budget, CompressedText, Passage, Request, Span

Text = Compressor[CompressedText]

Piece = tuple[int, int, int]
"""A kept span in what is left of a passage: its start and end there, and its start in the source."""

MOST_ROOM = 1e12
"""More tokens than any context has, and far from what a float cannot hold."""


@dataclass(frozen=True, kw_only=True)
class Chain(Text):
    """Stages from coarse to fine: each works on what the one before it kept; spans still name the source.

    Parameters
    ----------
    stages: at least one. All count with the same tokenizer; none may place elision marks, since a stage sees only
        what the earlier ones left.
    widen: a stage may keep this many times the budget of the next one, >= 1.
    """

    stages: tuple[Text, ...]
    widen: float = 3.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.stages:
            raise InputError("a Chain needs at least one stage")
        if self.widen < 1:
            raise InputError(f"widen must be 1 or more, got {self.widen}")
        if any(getattr(stage, "elision", None) for stage in self.stages):
            raise InputError("stages of a Chain cannot place elision marks: read the spans instead")
        counters = {repr(getattr(stage, "counter", None)) for stage in self.stages}
        if len(counters) > 1:
            raise InputError(f"the stages of a Chain must share one counter, got {', '.join(sorted(counters))}")

    @property
    def name(self) -> str:
        """The stages' names, joined by "+"."""
        return "+".join(stage.name for stage in self.stages)

    @property
    def counter(self) -> CounterLike:
        """What the stages count with."""
        return getattr(self.stages[0], "counter", None)

    def compress_batch(self, requests: Sequence[Request]) -> list[CompressedText]:
        """Run the stages one after the other, all requests together in each."""
        began = time.perf_counter()
        rooms = self._rooms()
        results = self.stages[0].compress_batch([replace(r, budget=_widened(r.budget, rooms[0])) for r in requests])
        tokens_in = [result.stats.tokens_in for result in results]
        budgets = [r.budget.resolve(n) for r, n in zip(requests, tokens_in, strict=True)]
        for stage, room in zip(self.stages[1:], rooms[1:], strict=True):
            narrowed = [
                Request(request.query, _remains(result), _widened(Budget(tokens=budget), room))
                for request, result, budget in zip(requests, results, budgets, strict=True)
            ]
            finer = stage.compress_batch(narrowed)
            results = [_in_source(coarse, fine) for coarse, fine in zip(results, finer, strict=True)]
        seconds = (time.perf_counter() - began) / max(len(requests), 1)
        return [
            replace(result, passages=request.passages).with_stats(tokens_in=n, seconds=seconds, method=self.name)
            for request, result, n in zip(requests, results, tokens_in, strict=True)
        ]

    def _rooms(self) -> list[float]:
        """How many times the budget each stage may keep; bounded, since the product soon leaves the floats."""
        rooms = [1.0]
        for _ in self.stages[1:]:
            rooms.append(min(rooms[-1] * self.widen, MOST_ROOM))
        return rooms[::-1]


def _widened(budget: Budget, room: float) -> Budget:
    if room == 1:
        return budget
    if budget.tokens is not None:
        return Budget(tokens=int(min(budget.tokens, MOST_ROOM) * room))
    return Budget(keep=min(1.0, (budget.keep or 1.0) * room))


def _remains(result: CompressedText) -> tuple[Passage, ...]:
    """The passages with what is left of their text; explicitly protected spans move with it."""
    if result.spans is None:
        raise InputError(f"{result.stats.method} rewrites text, so it can only be the last stage of a Chain")
    remains = []
    for passage, text, pieces in zip(result.passages, result.passage_texts, _pieces(result), strict=True):
        protected = passage.metadata.get("protect")
        metadata = {**passage.metadata, "protect": _moved(protected, pieces)} if protected else passage.metadata
        remains.append(replace(passage, text=text, metadata=metadata))
    return tuple(remains)


def _moved(spans: Any, pieces: list[Piece]) -> Any:
    """Spans of the source as spans of what is left; what is malformed stays, for the stage to complain about."""
    try:
        return [
            (start + max(a, source) - source, start + min(b, source + end - start) - source)
            for a, b in spans
            for start, end, source in pieces
            if a < source + end - start and source < b
        ]
    except (TypeError, ValueError):
        return spans


def _in_source(coarse: CompressedText, fine: CompressedText) -> CompressedText:
    """The finer result with its spans in the offsets of the coarser one's passages."""
    fallback = fine.stats.fallback or coarse.stats.fallback
    fine = replace(fine, passages=coarse.passages).with_stats(fallback=fallback)
    if fine.spans is None:
        return fine
    pieces = _pieces(coarse)
    ends = [[end for _, end, _ in own] for own in pieces]
    spans = []
    for p in fine.spans:
        own = pieces[p.passage]
        i = bisect_right(ends[p.passage], p.start)
        while i < len(own) and own[i][0] < p.end:
            a, b, source = own[i]
            spans.append(Span(p.passage, source + max(p.start, a) - a, source + min(p.end, b) - a, p.score))
            i += 1
    return replace(fine, spans=tuple(spans))


def _pieces(result: CompressedText) -> list[list[Piece]]:
    """For each passage where its spans stand in what is left of it."""
    pieces: list[list[Piece]] = [[] for _ in result.passages]
    cursors = [0] * len(result.passages)
    for span in result.spans or ():
        text, cursor = result.passage_texts[span.passage], cursors[span.passage]
        kept = result.passages[span.passage].text[span.start : span.end]
        start = text.find(kept, cursor)
        if start < 0 or text[cursor:start].strip(GAP):
            raise InputError(f"{result.stats.method} adds text of its own, so it can only be the last stage of a Chain")
        pieces[span.passage].append((start, start + len(kept), span.start))
        cursors[span.passage] = start + len(kept)
    return pieces


@dataclass(frozen=True, kw_only=True)
class FallbackToInput(Text):
    """Survives a failing or inflating compressor by giving the input back, and says so in ``stats.fallback``.

    The budget still holds: an input that does not fit is cut at its end. Errors of the caller (`InputError`) are
    not survived.

    Parameters
    ----------
    inner: the compressor to survive.
    survives: the kinds of error to survive.
    """

    inner: Text
    survives: tuple[type[Exception], ...] = (Exception,)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def counter(self) -> CounterLike:
        """What the inner compressor counts with."""
        return getattr(self.inner, "counter", None)

    @property
    def name(self) -> str:
        """The inner method's name, in brackets."""
        return f"{snake_case(type(self).__name__)}({self.inner.name})"

    def compress_batch(self, requests: Sequence[Request]) -> list[CompressedText]:
        """The inner results; a request that fails alone falls back alone."""
        try:
            return [self._checked(r, c) for r, c in zip(requests, self.inner.compress_batch(requests), strict=True)]
        except InputError:
            raise
        except self.survives as error:
            if len(requests) == 1:
                return [self._input(requests[0], f"{type(error).__name__}: {error}")]
        return [result for request in requests for result in self.compress_batch([request])]

    def _checked(self, request: Request, result: CompressedText) -> CompressedText:
        stats = result.stats
        allowed = request.budget.resolve(stats.tokens_in)
        if stats.tokens_out > stats.tokens_in:
            return self._input(request, f"inflation: {stats.tokens_in} -> {stats.tokens_out} tokens")
        if stats.tokens_out > allowed:
            return self._input(request, f"over the budget: {stats.tokens_out} tokens where {allowed} are allowed")
        return result

    def _input(self, request: Request, reason: str) -> CompressedText:
        plain = Truncate(counter=self.counter).compress_batch([request])[0]
        return plain.with_stats(method=self.name, fallback=reason)
