"""Sharing out whole tokens: exact, in proportion to weights, with floors and ceilings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ctxcomp.errors import BudgetError


def share(total: int, weights: Sequence[float], sizes: Sequence[int], floors: Sequence[int] | None = None) -> list[int]:
    """Share ``total`` tokens: each gets its floor and a part of the rest in proportion to its weight.

    The parts add up to exactly ``min(total, sum(sizes))``: fractions go to the largest remainders (the first of equal
    ones), what exceeds a size goes to the others.

    Parameters
    ----------
    weights: >= 0, finite; all zero counts as all equal.
    sizes: the most that each can take.
    floors: the least that each takes; none by default.

    Raises
    ------
    BudgetError: the floors alone are over the total, or a weight is no number.
    """
    worth = np.asarray(weights, dtype=np.float64)
    room = np.asarray(sizes, dtype=np.int64)
    least = np.minimum(np.asarray(floors if floors is not None else [0] * len(room), dtype=np.int64), room)
    if not np.isfinite(worth).all() or (worth < 0).any():
        raise BudgetError(f"weights must be finite and 0 or more, got {list(weights)}")
    if least.sum() > total:
        raise BudgetError(
            f"a budget of {total} visual tokens cannot leave {least.sum()} that every page is promised: "
            "raise the budget, lower floor=, or retrieve fewer pages"
        )
    total = min(int(total), int(room.sum()))
    if not worth.sum() > 0:
        worth = np.ones_like(worth)
    parts = least.astype(np.float64)
    open_ = room > least
    rest = float(total - least.sum())
    while rest > 1e-9 and open_.any():
        live = worth * open_
        if not live.sum() > 0:
            live = open_.astype(np.float64)
        offered = parts + rest * live / live.sum()
        parts = np.minimum(offered, room)
        rest = float((offered - parts).sum())
        open_ &= parts < room
    return _whole(parts, room, total)


def _whole(parts: np.ndarray, room: np.ndarray, total: int) -> list[int]:
    """Round down, then one more where the remainder is largest."""
    whole = np.floor(parts + 1e-9).astype(np.int64)
    order = np.argsort(-(parts - whole), kind="stable")
    missing = total - int(whole.sum())
    while missing > 0:
        for i in order:
            if missing and whole[i] < room[i]:
                whole[i] += 1
                missing -= 1
    return [int(n) for n in whole]


def relevance_weights(scores: Sequence[float | None] | None, n: int, temperature: float) -> list[float]:
    """Weights of pages from retrieval scores of any scale: a softmax of differences in standard deviations.

    A deviation is never taken smaller than a tenth of the largest score: 15.91 and 15.90 weigh alike.

    Parameters
    ----------
    scores: higher is better; a missing one counts as the lowest that is there. None weighs all pages alike.
    temperature: > 0; the lower, the more goes to the best pages.
    """
    known = [score for score in scores or () if score is not None]
    if not known:
        return [1.0] * n
    lowest = min(known)
    values = [lowest if score is None else score for score in scores or ()]
    mean = sum(values) / n
    top = max(values)
    spread = max(math.sqrt(sum((value - mean) ** 2 for value in values) / n), 0.1 * max(map(abs, values)))
    return [math.exp((value - top) / (spread * temperature)) if spread > 0 else 1.0 for value in values]
