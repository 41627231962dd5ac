"""Labelled words for the token head: how often a word is asked about, and what survives a selection."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxcomp_eval.data import bucket, in_dev, read_rows

_WORD = re.compile(r"\w(?:\S*\w)?|[^\w\s]")
_BRACKETS = {"-LSB-": "[", "-RSB-": "]", "-LRB-": "(", "-RRB-": ")", "``": '"', "''": '"'}
_UNNEEDED = frozenset(["a", "an", "the"])
_SPAN_SOURCES = ("squadshifts_new_wiki", "squadshifts_reddit", "squadshifts_amazon_reviews", "squad_train_b")


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text whose words carry soft labels.

    Parameters
    ----------
    text: the text.
    words: half-open character spans of its words and punctuation marks, in order.
    targets: per word in [0, 1], how much it should be kept.
    answers: per question the indices of the words its answer needs (articles and punctuation left out).
    source: "qamr" (nearly every word asked about) or "span" (a few questions per passage).
    """

    text: str
    words: tuple[tuple[int, int], ...]
    targets: tuple[float, ...]
    answers: tuple[frozenset[int], ...]
    source: str


def _needed(text: str, words: Sequence[tuple[int, int]], indices: Sequence[int]) -> frozenset[int]:
    kept = ((i, text[slice(*words[i])].lower()) for i in indices)
    return frozenset(i for i, word in kept if word not in _UNNEEDED and any(c.isalnum() for c in word))


def soften(counts: NDArray[np.float64], half: float) -> NDArray[np.float64]:
    """Counts to soft labels in [0, 1): a word asked about ``half`` times gets one half."""
    return counts / (counts + half)


def qamr(
    folder: Path, part: str, *, half: float = 2.0, length_power: float = 0.5, articles: bool = True
) -> list[Labelled]:
    """QAMR sentences, split by a hash of the sentence.

    Parameters
    ----------
    part: "train" (80 %), "dev" (10 %) or "test" (10 %).
    half: how many answers a word must be in for the label one half, > 0.
    length_power: an answer of n words adds ``n ** -length_power`` to each of its words: at 0 a function word
        inside a long answer counts as much as a name that is an answer by itself, at 1 it counts least.
    articles: False labels "a", "an", "the" 0: answers are compared without them.
    """
    labelled = []
    for row in read_rows(folder / "compression" / "qamr.jsonl.gz"):
        tokens = [_BRACKETS.get(token, token) for token in row["tokens"]]
        text = " ".join(tokens)
        number = bucket(text)
        if part != ("test" if number < 10 else "dev" if number < 20 else "train"):
            continue
        ends = np.cumsum([len(token) + 1 for token in tokens]) - 1
        words = tuple((int(end) - len(token), int(end)) for token, end in zip(tokens, ends, strict=True))
        counts = np.zeros(len(tokens))
        for qa in row["qa"]:
            counts[qa["answer"]] += max(len(qa["answer"]), 1) ** -length_power
        if not articles:
            counts[[token.lower() in _UNNEEDED for token in tokens]] = 0
        targets = tuple(soften(counts, half).tolist())
        answers = (_needed(text, words, qa["answer"]) for qa in row["qa"])
        labelled.append(Labelled(text, words, targets, tuple(a for a in answers if a), "qamr"))
    return labelled


def spans(folder: Path, part: str, *, least: int = 3, articles: bool = True) -> list[Labelled]:
    """Contexts of qa/span_train with ``least`` questions or more; words inside an answer are the positives.

    Parameters
    ----------
    part: "train" or "dev"; dev is the split "span_dev".
    articles: False labels "a", "an", "the" 0.
    """
    contexts: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(folder / "qa" / "span_train.jsonl.gz"):
        if row["source"] in _SPAN_SOURCES and in_dev("span_dev", row) == (part == "dev"):
            contexts.setdefault(row["context"], []).append(row["answers"][0])
    labelled = []
    for text, found in contexts.items():
        if len(found) < least:
            continue
        words = tuple(match.span() for match in _WORD.finditer(text))
        inside = [_overlap(words, a["start"], a["start"] + len(a["text"])) for a in found]
        asked = frozenset(i for indices in inside for i in indices)
        if not articles:
            asked = frozenset(i for i in asked if text[slice(*words[i])].lower() not in _UNNEEDED)
        targets = tuple(float(i in asked) for i in range(len(words)))
        answers = (_needed(text, words, indices) for indices in inside)
        labelled.append(Labelled(text, words, targets, tuple(a for a in answers if a), "span"))
    return labelled


def _overlap(words: Sequence[tuple[int, int]], start: int, end: int) -> list[int]:
    return [i for i, (first, last) in enumerate(words) if first < end and start < last]


def survival(examples: Sequence[Labelled], scores: Sequence[NDArray[np.float64]], keep: float) -> float:
    """Share of answers whose words all survive when each text keeps its best ``keep`` of words, in (0, 1]."""
    kept_answers: list[bool] = []
    for example, score in zip(examples, scores, strict=True):
        count = int(np.floor(keep * len(score) + 1e-9))
        kept = frozenset(np.argsort(-score, kind="stable")[:count].tolist())
        kept_answers += [answer <= kept for answer in example.answers]
    return float(np.mean(kept_answers))


def ranking(examples: Sequence[Labelled], scores: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """AUC and average precision of word scores against "the word is in an answer", over all texts at once."""
    asked = np.concatenate([np.asarray(example.targets) > 0 for example in examples])
    flat = np.concatenate(scores)
    _, inverse, sizes = np.unique(flat, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    middle_rank = (last - (sizes - 1) / 2)[inverse]  # ties share their middle rank
    positives, negatives = int(asked.sum()), int((~asked).sum())
    auc = (middle_rank[asked].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    hits = np.bincount(inverse, weights=asked)[::-1]  # per distinct score, best first
    precision = np.cumsum(hits) / np.cumsum(sizes[::-1])
    return float(auc), float((precision * hits).sum() / positives)


def pack(sentences: Sequence[Labelled], generator: random.Random, most: int = 9) -> list[Labelled]:
    """Join random sentences to passages of 1 to ``most``, so that training sees lengths like a retriever's."""
    order = list(sentences)
    generator.shuffle(order)
    packed = []
    while order:
        count = generator.randint(1, most)
        packed.append(_join(order[:count]))
        del order[:count]
    return packed


def _join(parts: Sequence[Labelled]) -> Labelled:
    starts = np.cumsum([0, *(len(part.text) + 1 for part in parts)]).tolist()
    words = tuple((a + at, b + at) for part, at in zip(parts, starts, strict=False) for a, b in part.words)
    targets = tuple(target for part in parts for target in part.targets)
    return Labelled(" ".join(part.text for part in parts), words, targets, (), parts[0].source)
