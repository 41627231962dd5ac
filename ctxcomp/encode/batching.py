"""Which sequences run together: length buckets with little padding and bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PASS_TOKENS = 16
"""What one more forward pass costs, in padded tokens: 1.1 ms where a token costs 0.07 ms (MiniLM, 2 threads)."""


def plan(lengths: Sequence[int], batch_tokens: int) -> list[NDArray[np.int64]]:
    """Split sequences into batches that cost least, longest first.

    A batch costs ``PASS_TOKENS + rows * longest``; dynamic programming over the distinct lengths finds the cheapest
    split, and batches beyond ``batch_tokens`` padded tokens are cut (a single longer sequence runs alone). Padding on
    Wikipedia is 1.3 % for 400 passages, 5 % for 120 sentences; lengths rounded up to 8 give 2.2 % and 8.5 %.

    Parameters
    ----------
    lengths: tokens per sequence.
    batch_tokens: upper bound on rows * longest, > 0.

    Returns
    -------
    Index arrays that together hold every sequence once.
    """
    if not len(lengths):
        return []
    order = np.argsort(np.asarray(lengths), kind="stable")
    distinct, counts = np.unique(np.asarray(lengths), return_counts=True)
    ends = np.concatenate([[0], np.cumsum(counts)])
    best = np.zeros(len(distinct) + 1)
    start = np.zeros(len(distinct) + 1, dtype=np.int64)
    for j in range(1, len(distinct) + 1):
        costs = best[:j] + distinct[j - 1] * (ends[j] - ends[:j])
        start[j] = int(costs.argmin())
        best[j] = costs[start[j]] + PASS_TOKENS
    batches = []
    j = len(distinct)
    while j:
        bucket = order[ends[start[j]] : ends[j]]
        rows = max(1, batch_tokens // max(1, int(distinct[j - 1])))
        batches += [bucket[i : i + rows] for i in range(0, len(bucket), rows)]
        j = int(start[j])
    return batches


def pad(sequences: Sequence[NDArray[np.int64]], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Right-pad to the longest: ids ``[rows, longest]`` and lengths ``[rows]``."""
    lengths = np.array([len(s) for s in sequences], dtype=np.int64)
    ids = np.full((len(sequences), int(lengths.max())), pad_id, dtype=np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return ids, lengths
