"""`sentence_pruner`, the default: keep the sentences that a cross-encoder, embeddings and words find needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ctxcomp.candidates import Candidates
from ctxcomp.compressor import Scores, Selector
from ctxcomp.encode.options import EncoderOptions
from ctxcomp.errors import InputError
from ctxcomp.text.fusion import FUSION, FusionName, fused, probabilities, several_share, sigmoid, stored
from ctxcomp.text.repeats import less_repeated
from ctxcomp.text.second_look import Seen, Vocabulary, second_signals
from ctxcomp.text.signals import (
    CROSS,
    STORED,
    Look,
    Matrix,
    Vectors,
    cross_signals,
    embed_passages,
    embed_queries,
    look,
    stored_signals,
    unit_means,
)
from ctxcomp.text.stored import stored_vectors

if TYPE_CHECKING:
    from ctxcomp.encode.pairs import PairScorer, PairScores

DEFAULT_HEAD = FUSION.with_name("sentence_pruner.safetensors")
SELDOM = 0.02
"""A question that is less likely to need several passages gets no second look."""
MANY = 40
"""Nor does a request of more passages: it was fitted on 10 to 20. Long documents in chunks, of which one question wants
many, looked to it like questions of several passages, and their evidence is not linked as it knows."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A request with a query, read.

    Parameters
    ----------
    n: its place in the batch.
    read: the passages that were read with the query, in source order.
    cross: what that says of their units, float64 ``[units of these, len(CROSS)]``.
    logits: log-odds of all units by the first look.
    """

    n: int
    units: Candidates
    look: Look
    read: list[int]
    cross: Matrix
    logits: Scores

    @cached_property
    def rows(self) -> NDArray[np.bool_]:
        """Which units are of passages that were read."""
        return np.isin(self.units.passage, self.read)

    @cached_property
    def seen(self) -> Seen:
        """The passages that were read, as the second look finds them."""
        return Seen(self.units.only(self.read), self.logits[self.rows])

    @cached_property
    def words(self) -> Vocabulary:
        """The words of these."""
        return Vocabulary(self.seen.units)

    @cached_property
    def several(self) -> float:
        """How likely it needs several passages, in [0, 1]."""
        return several_share(self.seen, self.words)


@dataclass(frozen=True, kw_only=True)
class SentencePruner(EncoderOptions, Selector):
    """Keeps the units with the highest probability of being needed for the query.

    One pass over query and passage together gives a rank and a keep logit of each token; one pass over the passage
    alone gives embeddings. They are fused, with word overlap and the retriever's score, into one probability, which
    compares across passages. Two uses: a budget, which the best units fill; or ``min_score`` with ``Budget(keep=1)``,
    where as little as needed is kept, irrelevant passages vanish, and an empty result means that nothing here helps.

    Parameters
    ----------
    model: "minilm" comes with an adapter of our own; otherwise an OpenProvence checkpoint or any cross-encoder that
        scores (query, text) pairs, whose own scores are then used alone.
    head: a file with another adapter for ``model``.
    cross_passages: at most so many passages, the best by the signals that need no cross-encoder, are read together with
        the query; 0 for all.
    cross_margin: early exit: a passage is read with the query only if its best unit's log-odds by those signals come
        within this of the request's best; None for all. With 4 about 43 % of 20 passages are read, and with
        ``reuse_embeddings`` a call takes a third of the time; questions that need two passages lose the second one more
        easily.
    redundancy: a unit with the same words as a better one, as where chunks overlap, has its probability multiplied by
        exp(-redundancy); 0 for no such loss.
    reuse_embeddings: take ``Passage.embedding`` as the passage's vector, so that with an early exit the passages that
        are not read cost nothing; only right when the retriever's model is ``model``.
    second_look: weigh the units once more with the best of them as evidence, for questions that need several passages:
        "auto" by how likely the question is one of those, "always" or "never". It sees the passages that were read, if
        they are 2 to 40.
    cut: the first sentence that does not fit is cut to the stretch whose tokens the cross-encoder would keep; False for
        whole sentences only.
    min_score: the least probability that is kept. On nq20 0.003 keeps 98 % of the answers in 9 % of the tokens.

    Source
    ------
    Chirkova et al., "Provence: efficient and robust context pruning for retrieval-augmented generation" (2025).
    Deviations: the score ranks units across passages under one budget; it is fused with a bi-encoder's similarities,
    which a small cross-encoder forgets; labels in training were answers and supporting facts.
    """

    cut: bool = True
    second_look: Literal["auto", "always", "never"] = "auto"
    head: str | None = None
    cross_passages: int = 0
    cross_margin: float | None = None
    redundancy: float = 4.0
    reuse_embeddings: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cross_margin is not None and not self.cross_margin >= 0:
            raise InputError(f"cross_margin must be 0 or more, or None for all passages, got {self.cross_margin}")
        if self.cross_passages < 0:
            raise InputError(f"cross_passages must be 0, for all, or more, got {self.cross_passages}")
        if not self.redundancy >= 0:
            raise InputError(f"redundancy must be 0, for none, or more, got {self.redundancy}")

    def head_source(self) -> str:
        """The adapter's file, or "none" for a published cross-encoder with heads of its own."""
        if self.head is not None:
            return self.head
        return str(DEFAULT_HEAD) if self.model == "minilm" else "none"

    def weights_hash(self) -> str:
        """What identifies the weights and the fusion."""
        own = self.pair_scorer().weights_hash
        return own if self.head_source() == "none" else own + hashlib.sha256(FUSION.read_bytes()).hexdigest()

    def score(self, batch: Sequence[Candidates]) -> list[Scores]:
        """The probability in [0, 1] that each unit is needed."""
        if self.head_source() == "none":
            return self._published(batch)
        places = [n for n, units in enumerate(batch) if units.query.strip()]
        alone = iter(self._alone([units for units in batch if not units.query.strip()]))
        scores = [np.empty(0) if units.query.strip() else next(alone) for units in batch]
        looks = self._first([batch[n] for n in places])
        read = [self._read(batch[n], one) for n, one in zip(places, looks, strict=True)]
        cross = self._cross([(batch[n], own) for n, own in zip(places, read, strict=True)])
        asked = [
            self._ask(n, batch[n], one, passages, own)
            for n, one, passages, own in zip(places, looks, read, cross, strict=True)
        ]
        for one in asked:
            scores[one.n] = probabilities(one.logits, one.units.passage, stored()["probability"])
        if self.second_look != "never":
            self._look_again(asked, scores)
        if self.redundancy:
            for one in asked:
                scores[one.n] = less_repeated(scores[one.n], one.units.texts, self.redundancy)
        return scores

    def focus(self, units: Candidates, i: int) -> Scores | None:
        """The keep logit of each character's token."""
        p, start, end = int(units.passage[i]), int(units.start[i]), int(units.end[i])
        if not units.query.strip():
            return None
        found = self.pair_scorer().score([(units.query, units.passages[p].text)])[0]
        if found.keep is None or not len(found.keep):
            return None
        worth = np.full(len(units.passages[p].text), float(found.keep.mean()))
        for (a, b), value in zip(found.offsets.tolist(), found.keep.tolist(), strict=True):
            worth[a:b] = value
        return worth[start:end]

    def _first(self, asked: Sequence[Candidates]) -> list[Look]:
        """What is known of each request before passages are read with the query: ``SIGNALS[self._stage]``."""
        if not asked:
            return []
        encoder = self.load_encoder("none")
        if not self.reuse_embeddings:
            return look(asked, encoder)
        queries = embed_queries(asked, encoder)
        vectors = [stored_vectors(units, encoder.hidden_size, self.model, normalize=True) for units in asked]
        return [
            Look(stored_signals(units, queries[units.query], own), queries[units.query], own[:0])
            for units, own in zip(asked, vectors, strict=True)
        ]

    @property
    def _stage(self) -> FusionName:
        return "stored" if self.reuse_embeddings else "cheap"

    def _alone(self, batch: Sequence[Candidates]) -> list[Scores]:
        """Without a query: how much the words of each unit are worth on average, whatever the question."""
        if not batch:
            return []
        encoder = self.load_encoder()
        texts = [passage.text for units in batch for passage in units.passages]
        found = iter(encoder.keep_probs(texts, label=encoder.label_of("word", "keep")))
        scores = []
        for units in batch:
            own = [next(found) for _ in units.passages]
            means = [unit_means(units, p, worth, offsets) for p, (offsets, worth) in enumerate(own)]
            scores.append(np.concatenate([np.empty(0), *means]))
        return scores

    def _read(self, units: Candidates, seen: Look) -> list[int]:
        """The passages that the cross-encoder reads."""
        count = len(units.passages)
        best = np.full(count, -np.inf)
        np.maximum.at(best, units.passage, fused(self._stage, seen.signals))
        order = np.argsort(-best, kind="stable")[: self.cross_passages or count]
        if self.cross_margin is not None:
            order = order[best[order] >= best.max() - self.cross_margin]
        return sorted(order.tolist())

    def _cross(self, wanted: Sequence[tuple[Candidates, Sequence[int]]]) -> list[Matrix]:
        """Per request what the cross-encoder says of the units of some passages."""
        pairs = [(units.query, units.passages[p].text) for units, own in wanted for p in own]
        found = iter(self.pair_scorer().score(pairs))
        none = np.empty((0, len(CROSS)))
        return [np.concatenate([none, *(cross_signals(units, p, next(found)) for p in own)]) for units, own in wanted]

    def _ask(self, n: int, units: Candidates, one: Look, read: list[int], cross: Matrix) -> Asked:
        logits = fused(self._stage, one.signals)
        rows = np.isin(units.passage, read)
        name: FusionName = "read" if self.reuse_embeddings else "full"
        logits[rows] = fused(name, np.concatenate([one.signals[rows], cross], axis=1))
        return Asked(n, units, one, read, cross, logits)

    def _look_again(self, asked: Sequence[Asked], scores: list[Scores]) -> None:
        """Mix in what the second look says of the passages that were read, by how likely it is needed.

        The means are geometric: what one look finds irrelevant stays so. With arithmetic ones a threshold that kept
        97 % of the evidence of dev questions of one passage removed 92.7 % of their distractors, with these 93.9 %.
        """
        always = self.second_look == "always"
        again = [one for one in asked if 1 < len(one.read) <= MANY and (always or one.several >= SELDOM)]
        if not again:
            return
        asks = [[f"{one.units.query} {one.seen.units.texts[i]}" for i in one.seen.evidence()] for one in again]
        vectors = iter(self.load_encoder("none").embed([ask for own in asks for ask in own]))
        for one, parts, own in zip(again, self._parts(again), asks, strict=True):
            linked = second_signals(one.seen, one.words, parts, np.stack([next(vectors) for _ in own]))
            known = one.look.signals[one.rows, : len(STORED)]
            similarity = (parts @ one.look.query)[:, None]
            logits = fused("second", np.concatenate([known, similarity, one.cross, linked], axis=1))
            second = probabilities(logits, one.seen.units.passage, stored()["probability_second"])
            several = 1.0 if always else one.several
            scores[one.n][one.rows] = scores[one.n][one.rows] ** (1 - several) * second**several

    def _parts(self, wanted: Sequence[Asked]) -> list[Vectors]:
        """The vectors of the units that were read, embedded now where those of the passages were stored."""
        if not self.reuse_embeddings:
            return [one.look.parts[one.rows] for one in wanted]
        passages = ((one.units, p) for one in wanted for p in one.read)
        embedded = embed_passages(passages, self.load_encoder("none")).units
        return [np.concatenate([embedded[one.units.passages[p].text] for p in one.read]) for one in wanted]

    def _published(self, batch: Sequence[Candidates]) -> list[Scores]:
        """The mean keep probability of each unit's tokens; where a model only ranks, its score of the unit itself."""
        scorer = self.pair_scorer()
        pairs = [(units.query, passage.text) for units in batch for passage in units.passages]
        if scorer.score(pairs[:1])[0].keep is None:
            ranked = iter(scorer.score([(units.query, text) for units in batch for text in units.texts]))
            return [sigmoid(np.array([next(ranked).rank for _ in units.texts])) for units in batch]
        found = iter(scorer.score(pairs))
        return [
            np.concatenate([_token_means(units, p, next(found)) for p in range(len(units.passages))]) for units in batch
        ]

    def pair_scorer(self) -> PairScorer:
        """The cross-encoder, loaded on first use."""
        from ctxcomp.encode.pairs import load_pair_scorer

        return load_pair_scorer(
            self.model, head=self.head_source(), runtime=self.runtime, dtype=self.dtype, device=self.device,
            threads=self.threads, batch_tokens=self.batch_tokens,
        )  # fmt: skip


def _token_means(units: Candidates, p: int, scores: PairScores) -> Scores:
    keep = np.zeros(0) if scores.keep is None else scores.keep
    return unit_means(units, p, sigmoid(keep), scores.offsets)
