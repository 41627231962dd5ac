"""`truncate`: keep the beginning, the end or both, in the order in which the retriever put the passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ctxcomp.candidates import Candidates
from ctxcomp.compressor import Scores, Selector
from ctxcomp.segment import Level


@dataclass(frozen=True, kw_only=True)
class Truncate(Selector):
    """Keeps text by position alone: the null baseline of every comparison.

    Parameters
    ----------
    side: "head" keeps the beginning, "tail" the end, "both" as much of each.
    by_passage_score: passages with a higher retriever score come first, whatever their order; passages without a
        score come last. Each passage is still read from its own beginning (or end).
    """

    unit: Level = "word"
    fill: bool = False
    side: Literal["head", "tail", "both"] = "head"
    by_passage_score: bool = False

    def score(self, batch: Sequence[Candidates]) -> list[Scores]:
        """Minus the distance from the side that is kept, in units."""
        return [self._positions(units) for units in batch]

    def _positions(self, units: Candidates) -> Scores:
        n = len(units)
        place = np.arange(n, dtype=np.float64)
        if self.by_passage_score:
            worth = np.array([-np.inf if p.score is None else p.score for p in units.passages])
            rank = np.empty(len(worth))
            rank[np.argsort(-worth, kind="stable")] = np.arange(len(worth))
            place[np.lexsort((np.arange(n), rank[units.passage]))] = np.arange(n)
        if self.side == "head":
            return -place
        if self.side == "tail":
            return place
        return np.maximum(-place, place - (n - 1) - 0.5)
