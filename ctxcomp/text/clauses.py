"""What a sentence says and what it only adds: its main clause, found by rules on English function words.

A date or a place in an adjunct may answer a question, but the sentence stands without it, and a headline leaves it out.
So this is a choice (``TokenPruner.clauses``) and not the default. The rules:

- Asides are worth `ASIDE` less: what stands before the main clause ("After the war, ...", "Police said that ...") or
  between its subject and verb (", who ...,").
- Times ("on Friday", "last week") are worth `TIME` less, and each word `WORD` less than the one before it. That is
  enough for subordinate clauses and attributions at the end: to count them as well added nothing.

Measured with `token_pruner`: words shared with headline-like deletions (F1, 899 sentences of sentcomp_dev, on which the
rules were chosen) at keep .4 and .6; share of answers that survive (1,185 questions of span_dev) at keep .25 and .5:

=================  =====  =====  ======  =====
weight             F1 .4  F1 .6  at .25  at .5
=================  =====  =====  ======  =====
0, the default     .402   .457   .636    .851
.05                .420   .467   .628    .854
.1                 .436   .480   .619    .842
.2                 .460   .508   .592    .820
.5                 .536   .585   .542    .730
1                  .630   .658   .322    .580
random words       .395   .485
the first words    .532   .588
=================  =====  =====  ======  =====
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ctxcomp.candidates import Candidates
from ctxcomp.compressor import Scores
from ctxcomp.segment import Kind, segment
from ctxcomp.text.bm25 import STOP_WORDS

ASIDE, TIME, WORD = 12.0, 4.5, 0.15
"""In log-odds, chosen by hand, at a weight of 1. The order matters more than the sizes."""
LOWEST, LEAST = -24.0, 1e-5
ENGLISH_SHARE = 0.05
"""The least share of `_ENGLISH` among a passage's words; English prose has three times that."""

_ENGLISH = frozenset(
    "the and of with that from which were their they have been would this there she but has its it said "
    "after who".split()
)
"""Function words of English that few languages share."""
_OPENERS = frozenset(
    "after before as while because since when where which who whom whose whereas although though unless until amid "
    "following despite if whether saying adding including citing during so but once".split()
)
_PREPOSITIONS = frozenset(
    "in on at by for with from to into over under about against of through between among across per within without "
    "upon along around behind beyond like towards via outside inside".split()
)
_ADJUNCTS = _OPENERS | _PREPOSITIONS
_AUXILIARIES = frozenset(
    "is are was were be been being am has have had will would can could may might must shall should do does did "
    "'s 've 're 'll wo ca".split()
)
_SAYS = frozenset("said says say saying believes insists claims".split())
_SAYS_THAT = _SAYS | frozenset(
    "announced confirmed confirms revealed reveals reported reports admitted admits warned writes claimed".split()
)
_PRONOUNS = frozenset("he she it they we i".split())
_TIMES = frozenset(
    "monday tuesday wednesday thursday friday saturday sunday today yesterday tonight tomorrow january february march "
    "april june july august september october november december jan feb mar apr jun jul aug sep sept oct nov dec "
    "week month year weekend night morning afternoon evening last next recently earlier later ago".split()
)
_BEFORE_TIMES = frozenset("on in at since this of last next late early".split())
_MARKS = "\"'“”‘’«»()[]{}.,;:!?…-–—*_`"
_CLOSING = (",", ";", ":", "--", "–", "—", ")", "]")
_STOPS = (".", "!", "?")
_CLOSERS = "\"'”’)»"


def main_clauses(units: Candidates, scores: Scores, weight: float) -> Scores:
    """Probabilities in [0, 1] that put main clauses first, from those of words ``[n]``.

    Only English prose is weighed, around its mean in the passage; all other units keep their scores.

    Parameters
    ----------
    weight: in [0, 1]: 0 leaves the scores' order, 1 that of the clauses.
    """
    weighed = scores.copy()
    for passage in range(len(units.passages)):
        sentences = _sentences(units, passage)
        if not sentences:
            continue
        prose = np.concatenate(sentences)
        worths = np.concatenate([sentence_worths([units.texts[i] for i in part.tolist()]) for part in sentences])
        p = np.clip(scores[prose], LEAST, 1 - LEAST)
        logits = np.log(p / (1 - p))
        mixed = (1 - weight) * logits + weight * (worths - worths.mean() + logits.mean())
        weighed[prose] = 1 / (1 + np.exp(-mixed))
    return weighed


def _sentences(units: Candidates, passage: int) -> list[NDArray[np.int64]]:
    """The words of each English sentence of a passage: what ends as one, and is prose."""
    mine = units.units_of(passage)
    prose = mine.start + np.flatnonzero(units.kind[mine] == Kind.TEXT)
    words = [_bare(units.texts[i]) for i in prose.tolist()]
    if not words or sum(word in _ENGLISH for word in words) < ENGLISH_SHARE * sum(map(bool, words)):
        return []
    begins = np.searchsorted(segment(units.passages[passage].text, "sentence").start, units.start[prose], side="right")
    parts = np.split(prose, np.flatnonzero(np.diff(begins)) + 1)
    return [part for part in parts if units.texts[part[-1]].rstrip(_CLOSERS).endswith(_STOPS)]


def sentence_worths(words: Sequence[str]) -> Scores:
    """What each word of one sentence is worth to its main clause, in log-odds, in [`LOWEST`, 0], ``[n]``."""
    low = [_bare(word) for word in words]
    closes = [word.endswith(_CLOSING) for word in words]
    worths = np.full(len(words), -ASIDE)
    worths[_core(low, closes)] = 0.0
    for i, word in enumerate(low):
        if word in _TIMES:
            worths[i - (i > 0 and low[i - 1] in _BEFORE_TIMES) : i + 1] -= TIME
    worths -= WORD * np.arange(len(words))
    if words and words[-1] in _STOPS:
        worths[-1] = 0.0  # the full stop of a tokenised text
    return np.asarray(np.maximum(worths, LOWEST))


def _core(low: Sequence[str], closes: Sequence[bool]) -> list[int]:
    """The words that are no asides: the main clause, with what follows it."""
    first = _after_adjuncts(low, closes)
    said = _saying(low, closes, first)
    if said is None:
        core = list(range(first, len(low)))
    else:
        verb, complement = said
        if low[complement] in _PRONOUNS:  # "Rooney said he wanted": the subject stays
            core = [*range(first, verb), *range(complement + 1, len(low))]
        else:
            core = list(range(complement, len(low)))
    return _without_parentheses(core, low, closes)


def _after_adjuncts(low: Sequence[str], closes: Sequence[bool]) -> int:
    """Where the first stretch begins that is not opened like an adjunct; 0 where all are."""
    start = 0
    while start < len(low) and (low[start] in _ADJUNCTS or low[start].endswith("ing")):
        end = next((i for i in range(start, len(low)) if closes[i]), len(low))
        start = end + 1
    return start if start < len(low) - 1 else 0


def _saying(low: Sequence[str], closes: Sequence[bool], first: int) -> tuple[int, int] | None:
    """The first verb of saying after ``first``, with its auxiliaries, and where what is said begins."""
    last = max((i for i, word in enumerate(low) if word in _AUXILIARIES), default=-1)
    for verb in range(first + 1, last):
        if low[verb] not in _SAYS_THAT:
            continue
        begin = verb + 1
        while begin < last and (low[begin] in _TIMES or low[begin] == "on"):
            begin += 1
        that = low[begin] == "that"
        begin += that
        if begin > last or any(closes[verb:begin]) or low[begin] in _ADJUNCTS:
            continue
        if that or low[verb] in _SAYS:
            while verb > first and low[verb - 1] in _AUXILIARIES:
                verb -= 1
            return verb, begin
    return None


def _without_parentheses(core: list[int], low: Sequence[str], closes: Sequence[bool]) -> list[int]:
    """Without what stands between the subject and its verb, from comma to comma."""
    comma = next((n for n, i in enumerate(core) if closes[i]), len(core))
    if comma >= len(core) - 1 or any(_is_verb(low[i]) for i in core[1 : comma + 1]):
        return core
    start = comma + 1
    while start < len(core):
        word = low[core[start]]
        if _is_verb(word) or (start > comma + 1 and word not in STOP_WORDS and not word.endswith("ing")):
            return core[: comma + 1] + core[start:]
        start = next((n for n in range(start, len(core)) if closes[core[n]]), len(core)) + 1
    return core


def _is_verb(word: str) -> bool:
    return word in _AUXILIARIES or (word.endswith("ed") and len(word) > 3)


@lru_cache(maxsize=65536)
def _bare(text: str) -> str:
    low = text.lower().replace("’", "'")
    return low if low in _AUXILIARIES else low.strip(_MARKS)
