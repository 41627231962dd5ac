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
from ctxcomp.text.signals import (
    CHEAP,
    CROSS,
    STORED,
    Matrix,
    cheap_signals,
    cross_signals,
    embed_passages,
    embed_queries,
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


FusionName = Literal["stored", "cheap", "full"]
SIGNALS: dict[FusionName, tuple[str, ...]] = {"stored": STORED, "cheap": CHEAP, "full": (*CHEAP, *CROSS)}
"""What each linear model weighs."""


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
        takes two thirds of the time; on nq20 it costs 1 to 1.7 points of answer retention, and questions that need two
        passages lose the second one more easily (19 % of them on dev).
    reuse_embeddings: take ``Passage.embedding`` as the passage's vector, so that with an early exit the passages that
        are not read cost nothing; only right when the retriever's model is ``model``.
    min_score: the least probability that is kept. On nq20 0.003 keeps 98 % of the answers in 10 % of the tokens.

    Source
    ------
    Chirkova et al., "Provence: efficient and robust context pruning for retrieval-augmented generation" (2025).
    Deviations: the score ranks units across passages under one budget; it is fused with a bi-encoder's similarities,
    which a small cross-encoder forgets; labels in training were answers and supporting facts.
    """

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
        signals = [next(first) if units.query.strip() else None for units in batch]
        read = [self._read(units, s) for units, s in zip(batch, signals, strict=True)]
        pairs = [(units.query, units.passages[p].text) for units, some in zip(batch, read, strict=True) for p in some]
        found = iter(self.pair_scorer().score(pairs))
        cross = [
            {p: cross_signals(units, p, next(found)) for p in some} for units, some in zip(batch, read, strict=True)
        ]
        if self.reuse_embeddings:
            self._add_similarity(batch, cross)
        return [self._fused(units, s, own) for units, s, own in zip(batch, signals, cross, strict=True)]

    def _first(self, asked: Sequence[Candidates]) -> list[Matrix]:
        """What is known of each request before passages are read with the query: ``SIGNALS[self._stage]``."""
        encoder = self.load_encoder("none")
        if not self.reuse_embeddings:
            return cheap_signals(asked, encoder) if asked else []
        queries = embed_queries(asked, encoder)
        return [
            stored_signals(units, queries[units.query], self._vectors(units, encoder.hidden_size)) for units in asked
        ]

    def _vectors(self, units: Candidates, dimension: int) -> NDArray[np.float32]:
        return stored_vectors(units, dimension, self.model, normalize=True)

    @property
    def _stage(self) -> FusionName:
        return "stored" if self.reuse_embeddings else "cheap"

    def _read(self, units: Candidates, signals: Matrix | None) -> list[int]:
        """The passages that the cross-encoder reads."""
        count = len(units.passages)
        if signals is None:
            return list(range(count))
        best = np.full(count, -np.inf)
        np.maximum.at(best, units.passage, fused(self._stage, signals))
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

    def _fused(self, units: Candidates, signals: Matrix | None, cross: dict[int, Matrix]) -> Scores:
        if signals is None:
            return _sigmoid(np.concatenate([cross[p][:, CROSS.index("keep")] for p in range(len(units.passages))]))
        logits = fused(self._stage, signals)
        for p, own in cross.items():
            mine = units.units_of(p)
            logits[mine] = fused("full", np.concatenate([signals[mine], own], axis=1))
        return probabilities(logits, stored()["probability"])

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
