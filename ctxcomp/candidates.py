"""A request cut into units: what methods score and the packer chooses from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ctxcomp.segment import Level, segment
from ctxcomp.types import Passage, Request

JOINS = ("", " ", "\n", "\n\n")
"""What stands between kept units that had others between them, by the widest gap that the source had there."""


@dataclass(frozen=True)
class Candidates:
    """The units of all passages of one request, in source order: parallel arrays.

    Parameters
    ----------
    passage: int64 ``[n]``, index of each unit's passage.
    start, end: int64 ``[n]``, character offsets into that passage's text.
    kind: int8 ``[n]``, values of `Kind`.
    gap: int8 ``[n]``, index into `JOINS`: how wide the source's gap before the unit is.
    bounds: int64 ``[passages + 1]``: passage ``p`` has the units ``bounds[p]:bounds[p + 1]``.
    """

    request: Request
    passage: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    kind: NDArray[np.int8]
    gap: NDArray[np.int8]
    bounds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.start)

    @property
    def query(self) -> str:
        """The request's query."""
        return self.request.query

    @property
    def passages(self) -> tuple[Passage, ...]:
        """The request's passages."""
        return self.request.passages

    @cached_property
    def texts(self) -> list[str]:
        """The text of each unit."""
        passages = self.request.passages
        rows = zip(self.passage.tolist(), self.start.tolist(), self.end.tolist(), strict=True)
        return [passages[p].text[a:b] for p, a, b in rows]

    def units_of(self, passage: int) -> slice:
        """Which units belong to a passage."""
        return slice(int(self.bounds[passage]), int(self.bounds[passage + 1]))

    def only(self, passages: Sequence[int]) -> Candidates:
        """The units of some passages, given in source order, as if the request had no others."""
        mine = np.isin(self.passage, passages)
        sizes = np.diff(self.bounds)[list(passages)]
        return Candidates(
            replace(self.request, passages=tuple(self.passages[p] for p in passages)),
            np.repeat(np.arange(len(sizes), dtype=np.int64), sizes),
            self.start[mine], self.end[mine], self.kind[mine], self.gap[mine],
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        )  # fmt: skip


def candidates(request: Request, level: Level) -> Candidates:
    """Segment every passage of a request."""
    units = [segment(passage.text, level) for passage in request.passages]
    sizes = [len(u) for u in units]
    gaps = [_gaps(p.text, u.start, u.end) for p, u in zip(request.passages, units, strict=True)]
    return Candidates(
        request=request,
        passage=np.repeat(np.arange(len(units), dtype=np.int64), sizes),
        start=np.concatenate([np.empty(0, np.int64), *(u.start for u in units)]),
        end=np.concatenate([np.empty(0, np.int64), *(u.end for u in units)]),
        kind=np.concatenate([np.empty(0, np.int8), *(u.kind for u in units)]),
        gap=np.concatenate([np.empty(0, np.int8), *gaps]),
        bounds=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
    )


def _gaps(text: str, start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int8]:
    gaps = np.zeros(len(start), np.int8)
    apart = np.flatnonzero(start[1:] > end[:-1]) + 1
    gaps[apart] = 1
    for i, a, b in zip(apart.tolist(), end[apart - 1].tolist(), start[apart].tolist(), strict=True):
        if b - a > 1 or text[a] == "\n":
            gaps[i] = 1 + min(text.count("\n", a, b), 2)
    return gaps
