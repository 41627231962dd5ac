"""What the judges of several tasks share. Characters that are white space never count as kept or lost.

Evidence is looked for by the spans of a result, not by its text, so that a phrase kept elsewhere does not pass for
it. A result without spans, one that generated its text, has no such measures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxcomp.segment import GAP
from ctxcomp.types import CompressedText, Passage
from ctxcomp_eval.data import Evidence, Example
from ctxcomp_eval.retention import retained

Mask = NDArray[np.bool_]
_GAP = frozenset(GAP)


def answer_retention(example: Example, result: CompressedText) -> Mapping[str, float]:
    """``retention``: an answer is still there. Counts where one is in the full context."""
    if not retained(example.answers, example.context):
        return {}
    return {"retention": float(retained(example.answers, result.text))}


def all_retained(pieces: Sequence[str], text: str) -> bool:
    """Whether each of the pieces is in the text, as an answer would have to be."""
    return all(retained([piece], text) for piece in pieces)


@dataclass(frozen=True, slots=True)
class Overlap:
    """Visible characters: of the evidence, of what was kept, and of both at once."""

    evidence: int
    kept: int
    both: int

    @property
    def recall(self) -> float | None:
        """The share of the evidence that was kept; None where there is no evidence."""
        return self.both / self.evidence if self.evidence else None

    @property
    def precision(self) -> float | None:
        """The evidence's share of what was kept; None where nothing was."""
        return self.both / self.kept if self.kept else None


class Kept:
    """Which characters of the passages a result still has.

    Parameters
    ----------
    result: one with spans.
    """

    def __init__(self, result: CompressedText) -> None:
        self._passages = result.passages
        spans = ((span.passage, span.start, span.end) for span in result.spans or ())
        self._masks = masks(result.passages, spans)

    def any(self, passage: int) -> bool:
        """Whether anything of a passage is left."""
        return passage in self._masks

    def share(self, evidence: Evidence) -> float:
        """The share of a stretch's visible characters that is left, in [0, 1]; 1.0 where it has none."""
        passage, start, end = evidence
        seen = visible(self._passages[passage].text[start:end])
        if passage not in self._masks or not seen.any():
            return float(not seen.any())
        return float((self._masks[passage][start:end] & seen).sum() / seen.sum())

    def whole(self, evidence: Evidence) -> bool:
        """Whether every visible character of a stretch is left."""
        return self.share(evidence) == 1.0

    def overlap(self, evidence: Iterable[Evidence]) -> Overlap:
        """How what was kept and the evidence overlap; evidence that overlaps itself counts once."""
        wanted = masks(self._passages, evidence)
        totals = np.zeros(3, int)
        for p in self._masks.keys() | wanted.keys():
            seen = visible(self._passages[p].text)
            nothing = np.zeros(len(seen), bool)
            gold, kept = wanted.get(p, nothing) & seen, self._masks.get(p, nothing) & seen
            totals += [gold.sum(), kept.sum(), (gold & kept).sum()]
        return Overlap(*totals.tolist())


def masks(passages: Sequence[Passage], stretches: Iterable[Evidence]) -> dict[int, Mask]:
    """For each passage that the stretches touch, which of its characters they cover."""
    found: dict[int, Mask] = {}
    for passage, start, end in stretches:
        if start < end:
            found.setdefault(passage, np.zeros(len(passages[passage].text), bool))[start:end] = True
    return found


def visible(text: str) -> Mask:
    """Which characters are not white space (`ctxcomp.segment.GAP`)."""
    return np.fromiter((character not in _GAP for character in text), bool, len(text))
