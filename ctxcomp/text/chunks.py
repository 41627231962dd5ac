"""Chunks by meaning: neighbouring sentences that belong together, and how much of the budget each chunk gets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def split(vectors: NDArray[np.float32], sizes: Sequence[int], spread: float, least: int, most: int) -> list[slice]:
    """Ranges of sentences, cut where neighbours differ most.

    A cut is made where the cosine of two neighbours is lower than the mean by ``spread`` standard deviations. Chunks
    under ``least`` tokens join the neighbour that is more like them; chunks over ``most`` are cut at their weakest
    joint.

    Parameters
    ----------
    vectors: of the sentences of one passage, ``[n, hidden]``, of length 1.
    sizes: their tokens.
    """
    n = len(sizes)
    joints = np.einsum("ij,ij->i", vectors[1:], vectors[:-1]).astype(np.float64) if n > 1 else np.zeros(0)
    low = joints.mean() - spread * joints.std() if n > 1 else 0.0
    cuts = {i + 1 for i in np.flatnonzero(joints < low).tolist()}
    total = np.concatenate([[0], np.cumsum(sizes)])
    _merge_small(cuts, joints, total, least, n)
    _cut_large(cuts, joints, total, most, n)
    edges = [0, *sorted(cuts), n]
    return [slice(a, b) for a, b in pairwise(edges) if a < b]


def _merge_small(cuts: set[int], joints: Floats, total: NDArray[np.int64], least: int, n: int) -> None:
    for _ in range(len(cuts)):
        edges = [0, *sorted(cuts), n]
        small = next(((a, b) for a, b in pairwise(edges) if total[b] - total[a] < least), None)
        sides = [edge for edge in small or () if edge in cuts]
        if not sides:
            return
        cuts.discard(max(sides, key=lambda edge: joints[edge - 1]))


def _cut_large(cuts: set[int], joints: Floats, total: NDArray[np.int64], most: int, n: int) -> None:
    edges = [0, *sorted(cuts), n]
    open_ = list(pairwise(edges))
    while open_:
        a, b = open_.pop()
        if b - a < 2 or total[b] - total[a] <= most:
            continue
        cut = a + 1 + int(np.argmin(joints[a : b - 1]))
        cuts.add(cut)
        open_ += [(a, cut), (cut, b)]


def outliers(vectors: NDArray[np.float32], spread: float) -> NDArray[np.bool_]:
    """Which chunks are unlike the others: their mean cosine with the rest is low by ``spread`` standard deviations.

    Parameters
    ----------
    vectors: of the chunks, ``[n, hidden]``, of length 1. Under four chunks none is an outlier.
    """
    n = len(vectors)
    if n < 4:
        return np.zeros(n, bool)
    similarity = (vectors @ vectors.T).astype(np.float64)
    mean = (similarity.sum(axis=1) - np.diag(similarity)) / (n - 1)
    return np.asarray(mean < mean.mean() - spread * mean.std())


def shares(relevance: Floats, sizes: Sequence[int], tokens: int, temperature: float, floor: float) -> NDArray[np.int64]:
    """Tokens of the budget for each chunk: proportional to ``softmax(relevance / temperature)`` times its length.

    No chunk gets more than it has; what one cannot use goes to the others, and the first ``floor`` share of each
    chunk goes before all else. The sum is at most ``tokens``.
    """
    length = np.asarray(sizes, np.float64)
    room = float(min(tokens, length.sum()))
    given = length * min(floor, room / max(length.sum(), 1.0))
    weight = np.exp((relevance - relevance.max(initial=-np.inf)) / temperature) * length
    for _ in range(len(length)):
        open_ = (given < length - 1e-9) & (weight > 0)
        left = room - given.sum()
        if left < 1e-9 or not open_.any():
            break
        wanted = np.where(open_, weight, 0.0)
        given = np.minimum(given + left * wanted / wanted.sum(), length)
    return np.asarray(np.floor(given + 1e-9), np.int64)
