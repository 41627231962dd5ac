"""Every unit of a request with its score, for `include: ["scores"]`: what the page shows on hover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxcomp.candidates import Candidates, candidates
from ctxcomp.compressor import Selector
from ctxcomp.types import CompressedText, Request, Span
from ctxcomp_service.methods import Plan


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of a passage that is kept or dropped as a whole; ``score`` is None where the method gave none."""

    passage: int
    start: int
    end: int
    score: float | None
    kept: bool


@dataclass(frozen=True, slots=True)
class Scored:
    """A result and all its units."""

    result: CompressedText
    units: tuple[Unit, ...]


def scored(plan: Plan, requests: Sequence[Request]) -> list[Scored]:
    """Work for the worker: like compressing, with the scores of what was dropped as well."""
    if isinstance(plan.compressor, Selector):
        found = plan.compressor.compress_scored(requests)
        return [Scored(result, _units(units, scores, result.spans or ())) for result, units, scores in found]
    # A chain has no score of its own for what its first stage dropped.
    return [
        Scored(result, _units(candidates(request, "sentence"), None, result.spans or ()))
        for request, result in zip(requests, plan.compressor.compress_batch(requests), strict=True)
    ]


def _units(units: Candidates, scores: NDArray[np.float64] | None, spans: Sequence[Span]) -> tuple[Unit, ...]:
    kept = np.zeros(len(units), bool)
    for span in spans:
        mine = units.units_of(span.passage)
        overlaps = (units.start[mine] < span.end) & (units.end[mine] > span.start)
        kept[mine] |= overlaps
    worth: list[float | None] = [None] * len(units) if scores is None else list(scores.tolist())
    rows = zip(units.passage.tolist(), units.start.tolist(), units.end.tolist(), worth, kept.tolist(), strict=True)
    return tuple(Unit(*row) for row in rows)
