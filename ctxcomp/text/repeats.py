"""Units that say what a better unit says already: chunks overlap, and several passages tell the same fact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctxcomp.compressor import Scores
from ctxcomp.text.bm25 import words

ALIKE = 0.85
"""Cosine similarity above which two units are taken to say the same. Vectors hold some of a unit's surroundings: even
equal sentences of two passages may lie below, so that those are told by their words."""
BEST = 512
"""Units whose vectors others are compared with, the best of a request."""


def less_repeated(
    scores: Scores, texts: Sequence[str], vectors: NDArray[np.float32] | None, redundancy: float
) -> Scores:
    """Scores ``[units]``, those of units that repeat a better one multiplied by up to ``exp(-redundancy)``.

    Parameters
    ----------
    vectors: unit vectors ``[units, hidden]``; None to compare words alone.
    redundancy: 0 or more; its share in the exponent rises linearly from similarity ``ALIKE`` to 1, and is 1 where the
        words are the same, in the same order.
    """
    order = np.argsort(-scores, kind="stable")
    nearest = np.full(len(order), -1.0)
    if vectors is not None:
        place, best = np.argsort(order), order[:BEST]
        similarity = np.where(place[best] < place[:, None], vectors @ vectors[best].T, -1.0)
        nearest = similarity.max(axis=1, initial=-1.0)
    seen: set[tuple[str, ...]] = set()
    for i in order.tolist():
        said = tuple(words(texts[i]))
        if said in seen:
            nearest[i] = 1.0
        elif said:
            seen.add(said)
    less: Scores = scores * np.exp(-redundancy * np.maximum(nearest - ALIKE, 0) / (1 - ALIKE))
    return less
