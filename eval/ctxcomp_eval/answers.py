"""Exact match and token F1 of a predicted answer: the two figures of end-task quality.

Source: the evaluation script of SQuAD 1.1 (Rajpurkar et al. 2016), whose definitions these are. Deviation: where an
answer and the prediction both normalise to nothing, F1 is 1, as in SQuAD 2.0; 1.1 has no such case.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ctxcomp_eval.retention import normalise


def exact_match(prediction: str, answers: Iterable[str]) -> float:
    """1 where the prediction equals any answer, all normalised, else 0; 0 without answers."""
    found = normalise(prediction)
    return float(any(found == normalise(answer) for answer in answers))


def f1(prediction: str, answers: Iterable[str]) -> float:
    """The best F1 in [0, 1] over the answers, by normalised words with their counts; 0 without answers."""
    found = normalise(prediction).split()
    return max((_f1(found, normalise(answer).split()) for answer in answers), default=0.0)


def _f1(found: list[str], gold: list[str]) -> float:
    if not found or not gold:
        return float(found == gold)
    common = (Counter(found) & Counter(gold)).total()
    return 2 * common / (len(found) + len(gold))
