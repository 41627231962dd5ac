"""The unit that does not fit any more, cut to what there is room for: the last tokens of a budget hold answers too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ctxcomp.candidates import Candidates
from ctxcomp.counting import TokenCounter
from ctxcomp.segment import Kind, segment

LEAST = 6
"""Tokens of room under which nothing is cut: such a piece says too little."""

Worth = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Cut:
    """One unit and its words.

    Parameters
    ----------
    i: the unit's index.
    worth: float64 ``[characters of the unit]``, higher is kept; None keeps its head.
    """

    def __init__(self, units: Candidates, i: int, counter: TokenCounter, worth: Worth | None) -> None:
        self.units, self.i = units, i
        text = units.texts[i]
        cut = segment(text, "word")
        self.start, self.end = cut.start, cut.end
        apart = np.append(0, self.start[1:] > self.end[:-1])
        words = [" " * gap + text[a:b] for gap, a, b in zip(apart, self.start.tolist(), self.end.tolist(), strict=True)]
        self.costs = np.maximum(np.array(counter.count_batch(words), dtype=np.int64), 1)
        self.worth = (
            None if worth is None else np.array([worth[a:b].mean() for a, b in zip(self.start, self.end, strict=True)])
        )

    @staticmethod
    def suits(units: Candidates, i: int) -> bool:
        """Whether a unit is prose: half a table row or half an address helps nobody."""
        return int(units.kind[i]) in (Kind.TEXT, Kind.LIST_ITEM)

    def window(self, room: int) -> tuple[int, int]:
        """The first word and the one behind the last of the best stretch of at most ``room`` tokens; equal if none."""
        total = np.append(0, np.cumsum(self.costs))
        stop = np.searchsorted(total, total[:-1] + room, side="right") - 1
        if self.worth is None:
            return 0, int(stop[0])
        running = np.append(0, np.cumsum(self.worth))
        begin = np.arange(int(stop.argmax()) + 1)  # stretches from further on reach the end with room to spare
        stop = stop[begin]
        mean = np.where(stop > begin, (running[stop] - running[begin]) / np.maximum(stop - begin, 1), -np.inf)
        best = int(mean.argmax())
        return best, int(stop[best])

    def share(self, window: tuple[int, int]) -> float:
        """The share of the unit's tokens in a window."""
        return float(self.costs[slice(*window)].sum() / self.costs.sum())

    def split(self, window: tuple[int, int], kept: Mask) -> tuple[Candidates, Mask, NDArray[np.int64]]:
        """The units with this one in up to three parts, what is kept of them, and which unit each was, ``[parts]``."""
        units, i, (a, b) = self.units, self.i, window
        words = [(0, a), (a, b), (b, len(self.costs))]
        parts = [(int(self.start[x]), int(self.end[y - 1]), x) for x, y in words if y > x]
        n = len(parts)
        origin = np.repeat(np.arange(len(units)), np.where(np.arange(len(units)) == i, n, 1))
        start, end, gap = units.start[origin], units.end[origin], units.gap[origin]
        fresh = kept[origin]
        for k, (first, last, word) in enumerate(parts, i):
            start[k], end[k] = units.start[i] + first, units.start[i] + last
            fresh[k] = word == a
            if word:
                gap[k] = int(self.start[word] > self.end[word - 1])
        end[i + n - 1], start[i] = units.end[i], units.start[i]
        bounds = units.bounds + (n - 1) * (units.bounds > i)
        made = replace(
            units, passage=units.passage[origin], start=start, end=end, kind=units.kind[origin], gap=gap, bounds=bounds
        )
        return made, fresh, origin
