"""Units that say what a better unit says already: chunks overlap, and several passages tell the same fact."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctxcomp.compressor import Scores

ALIKE = 0.85
"""Cosine similarity above which two units are taken to say the same; paraphrases of one fact lie around it."""
BEST = 512
"""Units that others are compared with, the best of a request."""


def less_repeated(scores: Scores, vectors: NDArray[np.float32], redundancy: float) -> Scores:
    """Scores, those of units that repeat a better one multiplied by up to ``exp(-redundancy)``.

    Parameters
    ----------
    vectors: unit vectors ``[units, hidden]``.
    redundancy: 0 or more; its share in the exponent rises linearly from similarity ``ALIKE`` to 1.
    """
    order = np.argsort(-scores, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    best = order[:BEST]
    similarity = np.where(place[best] < place[:, None], vectors @ vectors[best].T, -1.0)
    nearest = similarity.max(axis=1, initial=-1.0)
    less: Scores = scores * np.exp(-redundancy * np.maximum(nearest - ALIKE, 0) / (1 - ALIKE))
    return less
