"""Is the answer still in the compressed context, and how sure are we of a mean: bootstrap intervals."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ctxcomp.errors import InputError

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CHUNK = 4_000_000


def normalise(text: str) -> str:
    """Lower case, no ASCII punctuation, no English articles, single spaces.

    Source: the evaluation script of SQuAD 1.1 (Rajpurkar et al. 2016). Punctuation is deleted, not replaced:
    "twenty-four" becomes "twentyfour", in answer and context alike.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def retained(answers: Iterable[str], text: str) -> bool:
    """Whether any answer is in the text, both normalised, as whole words in a row.

    Both sides are padded with spaces before the search, so "2" is not found in "1923". Answers that normalise
    to nothing ("the", "?") are never found.
    """
    context = f" {normalise(text)} "
    return any(f" {answer} " in context for answer in map(normalise, answers) if answer)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its bootstrap interval; all three in the unit of the values."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """The mean of ``values`` with its percentile bootstrap interval.

    Only how often each distinct value is drawn matters for a mean, and these counts are multinomial: exactly
    the bootstrap, at a fraction of its cost for values such as 0 and 1.

    Parameters
    ----------
    values: one number per question, shape ``[n]``, n >= 1, finite.
    level: the coverage asked for, in (0, 1).
    resamples: how often to draw n questions with replacement, >= 1.

    Raises
    ------
    InputError: no values, or some that are not finite numbers.
    """
    numbers = np.asarray(values, dtype=np.float64).ravel()
    if not numbers.size or not np.isfinite(numbers).all():
        raise InputError("an interval needs at least one value, and finite ones only")
    distinct, counts = np.unique(numbers, return_counts=True)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(_CHUNK // len(distinct), 1)
    for at in range(0, resamples, step):
        part = means[at : at + step]
        part[:] = generator.multinomial(numbers.size, counts / numbers.size, len(part)) @ distinct / numbers.size
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(numbers.mean()), float(low), float(high))


def paired_difference(first: ArrayLike, second: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean of ``first - second`` over the same questions, with its 95 % bootstrap interval over questions.

    Raises
    ------
    InputError: the two have different lengths.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise InputError(f"a paired difference needs the same questions on both sides, got {a.shape} and {b.shape}")
    return bootstrap(a - b, resamples=resamples, seed=seed)
