"""What `sentence_pruner` knows of each unit before it is fused into one score."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxcomp.candidates import Candidates
from ctxcomp.compressor import Scores
from ctxcomp.encode.encoder import Encoder
from ctxcomp.encode.pairs import PairScores
from ctxcomp.encode.tokens import part_of_tokens
from ctxcomp.errors import ModelError
from ctxcomp.text.bm25 import STOP_WORDS, words

STORED = ("passage_similarity", "passage_overlap", "unit_overlap", "retriever")
"""Signals that need no pass over the passages where their vectors are stored."""
CHEAP = (*STORED, "unit_similarity")
"""Signals that need no pass over query and passage together."""
CROSS = ("rank", "keep")
"""Signals of the cross-encoder: the passage's rank logit, and the mean keep logit of the unit's tokens."""

Matrix = NDArray[np.float64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Embedded:
    """Of each passage's text its vector ``[hidden]`` and those of its units ``[units, hidden]``, all of length 1."""

    whole: dict[str, Vectors]
    units: dict[str, Vectors]


def embed_queries(batch: Sequence[Candidates], encoder: Encoder) -> dict[str, Vectors]:
    """The vector of each query."""
    queries = list(dict.fromkeys(units.query for units in batch))
    return dict(zip(queries, encoder.embed(queries), strict=True)) if queries else {}


def embed_passages(wanted: Iterable[tuple[Candidates, int]], encoder: Encoder) -> Embedded:
    """The vectors of some passages and of their units, from one pass over each text."""
    ranges = {}
    for units, p in wanted:
        mine = units.units_of(p)
        ranges[units.passages[p].text] = np.stack([units.start[mine], units.end[mine]], axis=1)
    whole, parts = encoder.embed_parts(list(ranges), list(ranges.values()))
    return Embedded(dict(zip(ranges, whole, strict=True)), dict(zip(ranges, parts, strict=True)))


@dataclass(frozen=True, slots=True)
class Look:
    """What one pass over queries and passages, each alone, says of a request.

    Parameters
    ----------
    signals: float64 ``[units, len(CHEAP)]``; ``[units, len(STORED)]`` where the passages' vectors were stored.
    query: the query's unit vector ``[hidden]``.
    parts: those of the units ``[units, hidden]``; none where the passages' were stored.
    """

    signals: Matrix
    query: Vectors
    parts: Vectors


def cheap_signals(batch: Sequence[Candidates], encoder: Encoder) -> list[Matrix]:
    """Per request float64 ``[units, len(CHEAP)]``, as of ``look``."""
    return [one.signals for one in look(batch, encoder)]


def look(batch: Sequence[Candidates], encoder: Encoder) -> list[Look]:
    """What each request's units are worth by one pass of the encoder over passages and queries.

    Similarities are cosines in [-1, 1]; overlaps the share in [0, 1] of the query's words, weighted by how rare they
    are among the request's passages, that the text holds; the retriever's score is standardised within the request.
    """
    queries = embed_queries(batch, encoder)
    embedded = embed_passages(((units, p) for units in batch for p in range(len(units.passages))), encoder)
    found = []
    for units in batch:
        query, texts = queries[units.query], [passage.text for passage in units.passages]
        passages = np.stack([embedded.whole[text] for text in texts])
        parts = np.concatenate([embedded.units[text] for text in texts])
        signals = np.concatenate([stored_signals(units, query, passages), (parts @ query)[:, None]], axis=1)
        found.append(Look(signals, query, parts))
    return found


def stored_signals(units: Candidates, query: Vectors, passages: Vectors) -> Matrix:
    """Float64 ``[units, len(STORED)]`` from the vectors of query ``[hidden]`` and passages ``[passages, hidden]``."""
    similarity = (passages @ query.astype(np.float64))[units.passage]
    return np.stack([similarity, *_overlaps(units), standardised(units)[units.passage]], axis=1)


def _overlaps(units: Candidates) -> tuple[Scores, Scores]:
    passages = [set(words(passage.text)) for passage in units.passages]
    asked = [word for word in dict.fromkeys(words(units.query)) if word not in STOP_WORDS]
    seen = Counter(word for held in passages for word in held)
    weight = {word: math.log1p(len(passages) / (seen[word] + 0.5)) for word in asked}
    total = sum(weight.values()) or 1.0

    def share(held: set[str]) -> float:
        return sum(weight[word] for word in asked if word in held) / total

    by_passage = np.array([share(held) for held in passages])
    return by_passage[units.passage], np.array([share(set(words(text))) for text in units.texts])


def standardised(units: Candidates) -> Scores:
    """``Passage.score`` with mean 0 and deviation 1 within the request, 0 where there is none: ``[passages]``."""
    raw = np.array([np.nan if p.score is None else p.score for p in units.passages], dtype=np.float64)
    known = ~np.isnan(raw)
    scaled = raw / max(float(np.abs(raw[known]).max(initial=0.0)), np.finfo(float).tiny)  # squares shall not overflow
    deviation = float(scaled[known].std()) if known.any() else 0.0
    if deviation < 1e-9:
        return np.zeros(len(raw))
    return np.where(known, (scaled - scaled[known].mean()) / deviation, 0.0)


def cross_signals(units: Candidates, p: int, scores: PairScores) -> Matrix:
    """Float64 ``[units of passage p, len(CROSS)]``.

    Raises
    ------
    ModelError: the scores hold no keep logits.
    """
    if scores.keep is None:
        raise ModelError("the cross-encoder has no keep output: use a head file with two outputs, rank and keep")
    keep = unit_means(units, p, scores.keep, scores.offsets)
    return np.stack([np.full(len(keep), scores.rank), keep], axis=1)


def unit_means(units: Candidates, p: int, values: NDArray[Any], offsets: NDArray[np.int64]) -> Scores:
    """The mean of token values over each unit of passage ``p``; a unit without tokens has the passage's mean."""
    mine = units.units_of(p)
    part = part_of_tokens(units.start[mine], units.end[mine], offsets)
    inside = part >= 0
    n = mine.stop - mine.start
    count = np.bincount(part[inside], minlength=n)
    total = np.bincount(part[inside], weights=values[inside], minlength=n)
    mean = float(values.mean()) if len(values) else 0.0
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), mean), dtype=np.float64)
