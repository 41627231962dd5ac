"""Units that say word for word what a better unit says already: a retriever's chunks overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ctxcomp.compressor import Scores
from ctxcomp.text.bm25 import words


def less_repeated(scores: Scores, texts: Sequence[str], redundancy: float) -> Scores:
    """Scores ``[units]``, those of units with the same words as a better one multiplied by ``exp(-redundancy)``."""
    less, seen = scores.copy(), set[tuple[str, ...]]()
    for i in np.argsort(-scores, kind="stable").tolist():
        said = tuple(words(texts[i]))
        if said in seen:
            less[i] *= np.exp(-redundancy)
        elif said:
            seen.add(said)
    return less
