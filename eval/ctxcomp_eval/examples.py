"""Wins and losses: the questions on which two methods differ, and what each of them kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxcomp import Budget, CompressedText
from ctxcomp_eval.data import Example
from ctxcomp_eval.runner import Outcome
from ctxcomp_eval.specs import Spec
from ctxcomp_eval.summary import column

Measured: TypeAlias = tuple[Spec, dict[float, list[Outcome]]]
"""A method, and its outcomes by keep."""


@dataclass(frozen=True, slots=True)
class Side:
    """What one method made of a question."""

    label: str
    result: CompressedText
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Duel:
    """One question on which two methods differ; ``margin`` is the headline metric's difference, above 0 a win."""

    example: Example
    first: Side
    second: Side
    margin: float


@dataclass(frozen=True, slots=True)
class Duels:
    """The first method against another at one keep.

    Parameters
    ----------
    wins, losses: how many questions there are of each.
    shown: some of them, wins before losses.
    """

    first: str
    second: str
    keep: float
    wins: int
    losses: int
    shown: tuple[Duel, ...]


def rival(measured: Sequence[Measured], given: int, headline: str) -> Measured | None:
    """Whom the first method is shown against: the second that was given, else the best of the baselines.

    Parameters
    ----------
    given: how many of the methods were asked for, >= 1; the baselines follow them.
    """
    if given > 1:
        return measured[1]
    return max(
        measured[1:],
        key=lambda one: sum(np.nansum(column([o.metrics for o in own], headline)) for own in one[1].values()),
        default=None,
    )


def duels(examples: Sequence[Example], ours: Measured, theirs: Measured, headline: str, count: int) -> Duels:
    """One method against another, at the keep at which they differ on most questions.

    Parameters
    ----------
    ours, theirs: outcomes in the order of the examples.
    count: how many wins and how many losses to show, >= 0.
    """
    margins = {keep: _margins(own, theirs[1][keep], headline) for keep, own in ours[1].items()}
    keep = max(margins, key=lambda keep: np.count_nonzero(margins[keep]))
    margin = margins[keep]
    wins = [i for i in np.argsort(-margin, kind="stable").tolist() if margin[i] > 0]
    losses = [i for i in np.argsort(margin, kind="stable").tolist() if margin[i] < 0]
    chosen = [*wins[:count], *losses[:count]]
    sides = [
        _sides(spec, [examples[i] for i in chosen], [outcomes[keep][i] for i in chosen], keep)
        for spec, outcomes in (ours, theirs)
    ]
    shown = (Duel(examples[i], a, b, float(margin[i])) for i, a, b in zip(chosen, *sides, strict=True))
    return Duels(str(ours[0]), str(theirs[0]), keep, len(wins), len(losses), tuple(shown))


def _margins(ours: Sequence[Outcome], theirs: Sequence[Outcome], headline: str) -> NDArray[np.float64]:
    difference = column([o.metrics for o in ours], headline) - column([o.metrics for o in theirs], headline)
    return np.nan_to_num(difference, nan=0.0)


def _sides(spec: Spec, examples: Sequence[Example], outcomes: Sequence[Outcome], keep: float) -> list[Side]:
    """Compressed again, which gives the same: journals hold no texts."""
    if not examples:
        return []
    compressor = spec.load()
    results = (compressor.compress(example.question, example.passages, Budget(keep=keep)) for example in examples)
    return [Side(str(spec), result, outcome) for result, outcome in zip(results, outcomes, strict=True)]
