"""Compressors made of compressors: `Chain` from coarse to fine, and `FallbackToInput`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ctxcomp.compressor import Compressor, snake_case
from ctxcomp.errors import InputError
from ctxcomp.segment import GAP
from ctxcomp.text.truncate import Truncate
from ctxcomp.types import Budget, CompressedText, Passage, Request, Span

Text = Compressor[CompressedText]


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

    def compress_batch(self, requests: Sequence[Request]) -> list[CompressedText]:
        """Run the stages one after the other, all requests together in each."""
        began = time.perf_counter()
        results: list[CompressedText] = []
        for depth, stage in enumerate(self.stages):
            room = self.widen ** (len(self.stages) - 1 - depth)
            if depth == 0:
                results = stage.compress_batch([replace(r, budget=_widened(r.budget, room)) for r in requests])
                tokens_in = [result.stats.tokens_in for result in results]
                budgets = [r.budget.resolve(n) for r, n in zip(requests, tokens_in, strict=True)]
                continue
            narrowed = [
                Request(request.query, _remains(result), Budget(tokens=int(budget * room)))
                for request, result, budget in zip(requests, results, budgets, strict=True)
            ]
            finer = stage.compress_batch(narrowed)
            results = [_in_source(coarse, fine) for coarse, fine in zip(results, finer, strict=True)]
        seconds = (time.perf_counter() - began) / max(len(requests), 1)
        return [
            result.with_stats(tokens_in=n, seconds=seconds, method=self.name)
            for result, n in zip(results, tokens_in, strict=True)
        ]


def _widened(budget: Budget, room: float) -> Budget:
    if budget.tokens is not None:
        return Budget(tokens=int(budget.tokens * room))
    return Budget(keep=min(1.0, (budget.keep or 1.0) * room))


def _remains(result: CompressedText) -> tuple[Passage, ...]:
    """The passages with what is left of their text; explicit protection has no meaning in new offsets."""
    if result.spans is None:
        raise InputError(f"{result.stats.method} rewrites text, so it can only be the last stage of a Chain")
    return tuple(replace(p, text=t) for p, t in zip(result.passages, result.passage_texts, strict=True))


def _in_source(coarse: CompressedText, fine: CompressedText) -> CompressedText:
    """The finer result with its spans in the offsets of the coarser one's passages."""
    if fine.spans is None:
        return replace(fine, passages=coarse.passages)
    pieces = _pieces(coarse)
    spans = [
        Span(p.passage, source + max(p.start, a) - a, source + min(p.end, b) - a, p.score)
        for p in fine.spans
        for a, b, source in pieces[p.passage]
        if a < p.end and p.start < b
    ]
    return replace(fine, spans=tuple(spans), passages=coarse.passages)


def _pieces(result: CompressedText) -> list[list[tuple[int, int, int]]]:
    """For each passage where its spans stand in what is left of it: (start, end, start in the source)."""
    pieces: list[list[tuple[int, int, int]]] = [[] for _ in result.passages]
    cursors = [0] * len(result.passages)
    for span in result.spans or ():
        text, cursor = result.passage_texts[span.passage], cursors[span.passage]
        while text[cursor] in GAP:
            cursor += 1
        stop = cursor + span.end - span.start
        pieces[span.passage].append((cursor, stop, span.start))
        cursors[span.passage] = stop
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
        if stats.tokens_out > max(stats.tokens_in, 0) or stats.tokens_out > request.budget.resolve(stats.tokens_in):
            return self._input(request, f"inflation: {stats.tokens_in} -> {stats.tokens_out} tokens")
        return result

    def _input(self, request: Request, reason: str) -> CompressedText:
        plain = Truncate(counter=getattr(self.inner, "counter", None)).compress_batch([request])[0]
        return plain.with_stats(method=self.name, fallback=reason)
