"""A second look at a request, with the best evidence in hand: another passage may be about what that names.

A question that needs two passages often names only the first; the second is about something that the first mentions.
Read one by one with the question, the second looks irrelevant.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxcomp.candidates import Candidates
from ctxcomp.compressor import Scores
from ctxcomp.text.bm25 import STOP_WORDS, words
from ctxcomp.types import Passage

SECOND = (
    "place", "passage_margin", "same_passage", "subject_asked", "question_about", "mentions", "subject_mentioned",
    "missing", "passage_missing", "mentions_back", "hop_similarity", "evidence_similarity",
)  # fmt: skip
"""What is known of a unit once there is evidence; all but the first five are of the best of a few pieces of evidence,
weighted by how good that is, and 0 in its own passage."""
SEVERAL = (
    "words", "content_words", "names", "covered_by_passage", "covered_by_unit", "second_covers", "rest_covers", "best",
    "margin",
)  # fmt: skip
"""What tells whether a question needs several passages."""
EVIDENCE = 4
"""Passages whose best unit serves as evidence; on 208 dev questions of HotpotQA 2, 3, 5 and 10 were within a point."""
SHARPNESS = 0.5
"""Evidence counts exp(SHARPNESS * its log-odds below the best)."""
LAST_PLACE = 5

_NAME = r"[A-Z0-9][\w'’.–-]*"
_SUBJECT = re.compile(
    rf"{_NAME}(?:(?: (?:of|the|and|de|in|for|at|on|to|a|an|von|van|la|le|&|with))+ (?={_NAME}){_NAME}| {_NAME})*"
)
_ARTICLE = re.compile(r"^(?:The|A|An|In|On) ")
_INNER_NAME = re.compile(r"(?<!^)[A-Z0-9][\w'’.-]*(?: [A-Z][\w'’.-]*)*")

Matrix = NDArray[np.float64]
Vectors = NDArray[np.float32]
Words = set[str]


@dataclass(frozen=True, eq=False)
class Seen:
    """A request after the first look.

    Parameters
    ----------
    logits: float64 ``[units]``, log-odds of the first look.
    """

    units: Candidates
    logits: Scores

    def best_of_passages(self) -> Scores:
        """The best log-odds of each passage."""
        best = np.full(len(self.units.passages), -np.inf)
        np.maximum.at(best, self.units.passage, self.logits)
        return best

    def evidence(self) -> list[int]:
        """The best unit of each of the best passages, the best first."""
        order = np.argsort(-self.best_of_passages(), kind="stable")[:EVIDENCE]
        found = []
        for p in order.tolist():
            mine = self.units.units_of(p)
            if mine.stop > mine.start:
                found.append(mine.start + int(self.logits[mine].argmax()))
        return found


class Vocabulary:
    """The words that carry a topic, of the question, passages, units and subjects, and how rare they are."""

    def __init__(self, units: Candidates) -> None:
        self.query = _content(units.query)
        self.passages = [_content(passage.text) for passage in units.passages]
        self.units = [_content(text) for text in units.texts]
        self.subjects = [subject(passage) for passage in units.passages]
        seen = Counter(word for held in self.passages for word in held)
        self._seen, self._count = seen, len(self.passages)

    def weight(self, some: Iterable[str]) -> float:
        """The words' weight together: the fewer passages hold a word, the more."""
        return sum(math.log1p(self._count / (self._seen[word] + 0.5)) for word in some)

    def share(self, some: Words, of: Words) -> float:
        """The share in [0, 1] of some words' weight that another text holds; 0 for none."""
        return self.weight(some & of) / (self.weight(of) or 1.0)


def subject(passage: Passage) -> Words:
    """What a passage is about: the words of its title, or else of the first name in it, or of its beginning."""
    if passage.title:
        return _content(passage.title)
    text = _ARTICLE.sub("", passage.text[:150])
    found = _SUBJECT.search(text)
    return _content(found.group(0) if found and found.start() < 40 else " ".join(text.split()[:4]))


def second_signals(seen: Seen, vocabulary: Vocabulary, parts: Vectors, hops: Vectors) -> Matrix:
    """Float64 ``[units, len(SECOND)]``.

    Parameters
    ----------
    parts: the vectors of the units ``[units, hidden]``.
    hops: the vectors of the question with each piece of evidence behind it, ``[evidence, hidden]``.
    """
    units, own = seen.units, vocabulary
    evidence, passage = seen.evidence(), seen.units.passage
    best = seen.best_of_passages()
    place = np.minimum(np.arange(len(units)) - units.bounds[passage], LAST_PLACE)
    asked = np.array([own.share(own.query, held) for held in own.subjects])
    about = np.array([own.share(held, own.query) for held in own.subjects])
    fixed = [place, (best - best.max())[passage], passage == passage[evidence[0]], asked[passage], about[passage]]
    linked = np.zeros((len(units), len(SECOND) - len(fixed)))
    for i, hop in zip(evidence, hops, strict=True):
        p = int(passage[i])
        new, told, missing = own.units[i] - own.query, own.passages[p] - own.query, own.query - own.units[i]
        behind = own.subjects[p] - own.query
        columns = [
            np.array([own.share(held, new) for held in own.units]),
            np.array([own.share(told, held) for held in own.subjects])[passage],
            np.array([own.share(held, missing) for held in own.units]),
            np.array([own.share(held, missing) for held in own.passages])[passage],
            np.array([own.share(held, behind) for held in own.passages])[passage],
            parts @ hop,
            parts @ parts[i],
        ]
        weight = (passage != p) * math.exp(SHARPNESS * (seen.logits[i] - seen.logits[evidence[0]]))
        linked = np.maximum(linked, np.stack(columns, axis=1) * weight[:, None])
    return np.concatenate([np.stack(fixed, axis=1).astype(np.float64), linked], axis=1)


def several_signals(seen: Seen, vocabulary: Vocabulary) -> Scores:
    """Float64 ``[len(SEVERAL)]`` of a request."""
    own, query = vocabulary, seen.units.query
    best = seen.best_of_passages()
    order = np.argsort(-best, kind="stable")
    first = own.passages[order[0]]
    second = own.passages[order[1]] if len(order) > 1 else set()
    covered = own.share(first, own.query)
    values = (
        len(words(query)), len(own.query), len(_INNER_NAME.findall(query)), covered,
        own.share(own.units[int(seen.logits.argmax())], own.query), own.share(first | second, own.query) - covered,
        own.share(set().union(*own.passages), own.query) - covered, seen.logits.max(),
        best[order[0]] - best[order[1]] if len(order) > 1 and np.isfinite(best[order[1]]) else 0.0,
    )  # fmt: skip
    return np.array(values, dtype=np.float64)


def _content(text: str) -> Words:
    return {word for word in words(text) if word not in STOP_WORDS}
