"""What must not get lost: names, numbers and negations of a text, and the words that its topic hangs on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctxcomp.candidates import Candidates
from ctxcomp.fit import protection
from ctxcomp.text.bm25 import STOP_WORDS, words

Mask = NDArray[np.bool_]

_MARKS = ".,;:!?()[]{}\"'`“”‘’«»–—-…"
GUARDED = ("digits", "names", "negations")
"""The patterns of `ctxcomp.fit.PROTECT_PATTERNS` that `guarded` looks for by default."""


def guarded(units: Candidates, patterns: tuple[str, ...] = GUARDED) -> Mask:
    """Which units hold a match of a pattern, bool ``[n]``: digits in any script, names and negations in English."""
    mask = np.zeros(len(units), bool)
    pattern = protection(patterns)
    for p, passage in enumerate(units.passages if pattern else ()):
        found = [match.span() for match in pattern.finditer(passage.text)] if pattern else []
        if not found:
            continue
        mine = units.units_of(p)
        spans = np.array(found, np.int64)
        first = np.searchsorted(units.end[mine], spans[:, 0], side="right")
        stop = np.searchsorted(units.start[mine], spans[:, 1], side="left")
        edges = np.zeros(mine.stop - mine.start + 1, np.int64)
        np.add.at(edges, first, 1)
        np.add.at(edges, np.maximum(first, stop), -1)
        mask[mine] = np.cumsum(edges)[:-1] > 0
    return mask


def content_words(units: Candidates) -> Mask:
    """Which units are more than an English function word or a mark, bool ``[n]``."""
    bare = [text.strip(_MARKS).lower() for text in units.texts]
    return np.array([bool(word) and word not in STOP_WORDS for word in bare], bool)


def top_terms(texts: Sequence[str], count: int) -> list[list[str]]:
    """The words of each text that tell it best from the others, by tf-idf over the texts; rarer ones first."""
    bags = [Counter(word for word in words(text) if word not in STOP_WORDS and len(word) > 2) for text in texts]
    seen = Counter(word for bag in bags for word in bag)
    weight = {word: math.log((1 + len(texts)) / n) for word, n in seen.items()}
    return [sorted(bag, key=lambda word: (-bag[word] * weight[word], word))[:count] for bag in bags]
