"""`sentence_pruner`, the default: keep the sentences that a cross-encoder, embeddings and words find needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctxcomp.candidates import Candidates
from ctxcomp.compressor import Scores, Selector
from ctxcomp.encode.options import EncoderOptions
from ctxcomp.errors import InputError
from ctxcomp.text.second_look import SECOND, SEVERAL, Seen, Vocabulary, second_signals, several_signals
from ctxcomp.text.signals import (
    CHEAP,
    CROSS,
    STORED,
    Look,
    Matrix,
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

WEIGHTS = Path(__file__).parent.parent / "weights"
DEFAULT_HEAD = WEIGHTS / "sentence_pruner.safetensors"
FUSION = WEIGHTS / "sentence_fusion.json"


@cache
def stored() -> Any:
    """What the fusion's file holds."""
    return json.loads(FUSION.read_text(encoding="utf-8"))


FusionName = Literal["stored", "cheap", "full", "second", "several"]
SIGNALS: dict[FusionName, tuple[str, ...]] = {
    "stored": STORED,
    "cheap": CHEAP,
    "full": (*CHEAP, *CROSS),
    "second": (*CHEAP, *CROSS, *SECOND),
    "several": SEVERAL,
}
"""What each linear model weighs; the last one says whether a request needs several passages."""
SELDOM = 0.02
"""A question that is less likely to need several passages gets no second look."""


@cache
def fusion(name: FusionName) -> tuple[Scores, float]:
    """Weights float64 ``[signals]`` and bias of a linear model."""
    model = stored()[name]
    return np.array([model["weights"][signal] for signal in SIGNALS[name]]), float(model["bias"])


def probabilities(logits: Scores, calibration: Mapping[str, float]) -> Scores:
    """Log-odds of all units of a request to probabilities; the distance to the best tells what the rest is worth."""
    margin = logits - logits.max(initial=-np.inf)
    return _sigmoid(calibration["logit"] * logits + calibration["margin"] * margin + calibration["bias"])


def fused(name: FusionName, signals: Matrix) -> Scores:
    """Log-odds that a unit is needed, float64 ``[units]``."""
    weights, bias = fusion(name)
    return np.asarray(signals @ weights + bias, dtype=np.float64)


def several_share(seen: Seen, words: Vocabulary) -> float:
    """How likely a question needs several passages, in [0, 1]."""
    weights, bias = fusion("several")
    return float(_sigmoid(several_signals(seen, words) @ weights + bias))


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
        within this of the request's best; None for all. With 4 about 43 % of 20 passages are read and a call
        takes two thirds of the time; on nq20 it costs 1 to 1.7 points of answer retention (with whole sentences and one
        look), and questions that need two passages lose the second one more easily (19 % of them on dev).
    reuse_embeddings: take ``Passage.embedding`` as the passage's vector, so that with an early exit the passages that
        are not read cost nothing; only right when the retriever's model is ``model``.
    second_look: weigh the units once more with the best of them as evidence, for questions that need several passages:
        "auto" by how likely the question is one of those, "always" or "never". There is none with an early exit or
        ``reuse_embeddings``.
    cut: the first sentence that does not fit is cut to the stretch whose tokens the cross-encoder would keep; False for
        whole sentences only.
    min_score: the least probability that is kept. On nq20 0.003 keeps 98 % of the answers in 11 % of the tokens.

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
    reuse_embeddings: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cross_margin is not None and not self.cross_margin >= 0:
            raise InputError(f"cross_margin must be 0 or more, or None for all passages, got {self.cross_margin}")
        if self.cross_passages < 0:
            raise InputError(f"cross_passages must be 0, for all, or more, got {self.cross_passages}")

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
        asked = [units for units in batch if units.query.strip()]
        first = iter(self._first(asked))
        looks = [next(first) if units.query.strip() else None for units in batch]
        read = [self._read(units, seen) for units, seen in zip(batch, looks, strict=True)]
        pairs = [(units.query, units.passages[p].text) for units, some in zip(batch, read, strict=True) for p in some]
        found = iter(self.pair_scorer().score(pairs))
        cross = [
            {p: cross_signals(units, p, next(found)) for p in some} for units, some in zip(batch, read, strict=True)
        ]
        if self.reuse_embeddings:
            self._add_similarity(batch, cross)
        fresh = [self._fused(units, one, own) for units, one, own in zip(batch, looks, cross, strict=True)]
        self._look_again(batch, looks, cross, fresh)
        return fresh

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
        encoder = self.load_encoder("none")
        if not self.reuse_embeddings:
            return look(asked, encoder) if asked else []
        queries = embed_queries(asked, encoder)
        vectors = [self._vectors(units, encoder.hidden_size) for units in asked]
        return [
            Look(stored_signals(units, queries[units.query], own), own, own[:0])
            for units, own in zip(asked, vectors, strict=True)
        ]

    def _vectors(self, units: Candidates, dimension: int) -> NDArray[np.float32]:
        return stored_vectors(units, dimension, self.model, normalize=True)

    @property
    def _stage(self) -> FusionName:
        return "stored" if self.reuse_embeddings else "cheap"

    def _read(self, units: Candidates, seen: Look | None) -> list[int]:
        """The passages that the cross-encoder reads."""
        count = len(units.passages)
        if seen is None:
            return list(range(count))
        best = np.full(count, -np.inf)
        np.maximum.at(best, units.passage, fused(self._stage, seen.signals))
        order = np.argsort(-best, kind="stable")[: self.cross_passages or count]
        if self.cross_margin is not None:
            order = order[best[order] >= best.max() - self.cross_margin]
        return sorted(order.tolist())

    def _add_similarity(self, batch: Sequence[Candidates], cross: Sequence[dict[int, Matrix]]) -> None:
        """Put the units' own similarities, which are not stored, before the signals of the passages that were read."""
        asked = [(units, own) for units, own in zip(batch, cross, strict=True) if units.query.strip()]
        encoder = self.load_encoder("none")
        queries = embed_queries([units for units, _ in asked], encoder)
        embedded = embed_passages(((units, p) for units, own in asked for p in own), encoder)
        for units, own in asked:
            for p, signals in own.items():
                similarity = embedded.units[units.passages[p].text] @ queries[units.query]
                own[p] = np.concatenate([similarity[:, None], signals], axis=1)

    def _fused(self, units: Candidates, seen: Look | None, cross: dict[int, Matrix]) -> Scores:
        if seen is None:
            return _sigmoid(np.concatenate([cross[p][:, CROSS.index("keep")] for p in range(len(units.passages))]))
        logits = fused(self._stage, seen.signals)
        for p, own in cross.items():
            mine = units.units_of(p)
            logits[mine] = fused("full", np.concatenate([seen.signals[mine], own], axis=1))
        return probabilities(logits, stored()["probability"])

    def _look_again(
        self,
        batch: Sequence[Candidates],
        looks: Sequence[Look | None],
        cross: Sequence[dict[int, Matrix]],
        scores: list[Scores],
    ) -> None:
        """Mix in what the second look says, by how likely each question needs several passages.

        The means are geometric: what one look finds irrelevant stays so. With arithmetic ones a threshold that kept
        97 % of the evidence of dev questions of one passage removed 92.7 % of their distractors, with these 93.9 %.
        """
        if self.second_look == "never" or self.reuse_embeddings:
            return
        again: list[tuple[int, float, Matrix, Seen, Vocabulary]] = []
        for n, (units, one, own) in enumerate(zip(batch, looks, cross, strict=True)):
            if one is not None and 1 < len(units.passages) == len(own):
                signals = np.concatenate([one.signals, np.concatenate([own[p] for p in sorted(own)])], axis=1)
                seen, words = Seen(units, fused("full", signals), one.passages, one.parts), Vocabulary(units)
                several = 1.0 if self.second_look == "always" else several_share(seen, words)
                if several >= SELDOM:
                    again.append((n, several, signals, seen, words))
        texts = [f"{seen.units.query} {seen.units.texts[i]}" for *_, seen, _ in again for i in seen.evidence()]
        hops = iter(self.load_encoder("none").embed(texts) if texts else ())
        for n, several, signals, seen, words in again:
            linked = second_signals(seen, words, np.stack([next(hops) for _ in seen.evidence()]))
            logits = fused("second", np.concatenate([signals, linked], axis=1))
            second = probabilities(logits, stored()["probability_second"])
            scores[n] = scores[n] ** (1 - several) * second**several

    def _published(self, batch: Sequence[Candidates]) -> list[Scores]:
        """The mean keep probability of each unit's tokens; where a model only ranks, its score of the unit itself."""
        scorer = self.pair_scorer()
        pairs = [(units.query, passage.text) for units in batch for passage in units.passages]
        if scorer.score(pairs[:1])[0].keep is None:
            ranked = iter(scorer.score([(units.query, text) for units in batch for text in units.texts]))
            return [_sigmoid(np.array([next(ranked).rank for _ in units.texts])) for units in batch]
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
    return unit_means(units, p, _sigmoid(keep), scores.offsets)


def _sigmoid(logits: NDArray[Any]) -> Scores:
    return 1 / (1 + np.exp(-np.clip(np.asarray(logits, dtype=np.float64), -500, 500)))
