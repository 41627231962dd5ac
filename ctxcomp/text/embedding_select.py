"""`embedding_select`: keep the units whose embedding is close to the query's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ctxcomp.candidates import Candidates
from ctxcomp.compressor import Scores, Selector
from ctxcomp.encode.options import EncoderOptions
from ctxcomp.errors import InputError
from ctxcomp.text.stored import stored_vectors

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class EmbeddingSelect(EncoderOptions, Selector):
    """Keeps what one encoder, for query and units alike, places near the query.

    A unit is worth ``similarity(query, unit) + passage_weight * similarity(query, passage)
    + retriever_weight * retriever score + position_weight * position``. Without a query, units are compared with the
    mean of all units: what is typical is kept.

    Parameters
    ----------
    model: any sentence-transformers or Contriever-like encoder; its own pooling is used.
    similarity: "cosine", or "dot" as RECOMP's Contriever checkpoints need.
    passage_weight: how much the similarity of the unit's whole passage adds, >= 0.
    retriever_weight: how much ``Passage.score`` adds, scaled to [0, 1] within the request, >= 0.
    position_weight: how much standing early in the passage adds (1 for its first unit, towards 0 for its last), >= 0.
    reuse_embeddings: take ``Passage.embedding`` as the passage's vector; only right when the retriever is the same
        model.

    Source
    ------
    Xu, Shi and Choi, "RECOMP: Improving Retrieval-Augmented LMs with Compression and Selective Augmentation"
    (2023), its extractive compressor. Deviations: the budget decides how many sentences stay, not a fixed number;
    they stand in source order; the passage, retriever and position terms are ours.
    """

    similarity: Literal["cosine", "dot"] = "cosine"
    # 300 questions of span_dev, each with 19 BM25 distractors from lm/wiki_pool, retention at keep .05, .1, .25:
    # weight 0: .643 .760 .857; 0.5: .623 .763 .880; 1: .637 .750 .880; 2: .620 .740 .850. On the 51 of them that stem
    # from Natural Questions: 0: .510 .588 .804; 0.5: .549 .706 .922; 1: .627 .765 .922; 2: .627 .804 .922.
    passage_weight: float = 1.0
    retriever_weight: float = 0.0
    position_weight: float = 0.0
    reuse_embeddings: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("passage_weight", "retriever_weight", "position_weight"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be 0 or more, got {getattr(self, name)}")

    def score(self, batch: Sequence[Candidates]) -> list[Scores]:
        """One pass of the encoder over the queries, passages and units of all requests."""
        vectors = self._embed(batch)
        return [self._score(units, vectors) for units in batch]

    def _embed(self, batch: Sequence[Candidates]) -> dict[str, Vectors]:
        texts = dict.fromkeys(text for units in batch for text in self._texts(units))
        embedded = self.load_encoder().embed(list(texts), normalize=self.similarity == "cosine")
        return dict(zip(texts, embedded, strict=True))

    def _texts(self, units: Candidates) -> list[str]:
        texts = [*units.texts, *([units.query] if units.query.strip() else [])]
        if self.passage_weight and not self.reuse_embeddings:
            texts += [passage.text for passage in units.passages]
        return texts

    def _score(self, units: Candidates, vectors: dict[str, Vectors]) -> Scores:
        own = np.stack([vectors[text] for text in units.texts])
        query = vectors[units.query] if units.query.strip() else own.mean(axis=0)
        scores = (own @ query).astype(np.float64)
        if self.passage_weight:
            scores += self.passage_weight * (self._passages(units, vectors) @ query)[units.passage]
        if self.retriever_weight:
            scores += self.retriever_weight * retriever_scores(units)[units.passage]
        if self.position_weight:
            sizes = np.diff(units.bounds)
            index = np.arange(len(units)) - units.bounds[units.passage]
            scores += self.position_weight * (1 - index / sizes[units.passage])
        return scores

    def _passages(self, units: Candidates, vectors: dict[str, Vectors]) -> Vectors:
        if self.reuse_embeddings:
            dimension = len(next(iter(vectors.values())))
            return stored_vectors(units, dimension, self.model, normalize=self.similarity == "cosine")
        return np.stack([vectors[passage.text] for passage in units.passages])


def retriever_scores(units: Candidates) -> Scores:
    """``Passage.score`` scaled to [0, 1] within the request; 0 where there is none. Float64 ``[passages]``."""
    raw = np.array([np.nan if p.score is None else p.score for p in units.passages], dtype=np.float64)
    known = raw[np.isfinite(raw)]
    if not len(known) or known.max() == known.min():
        return np.zeros(len(raw))
    scaled = (raw - known.min()) / (known.max() - known.min())
    return np.asarray(np.nan_to_num(scaled, nan=0.0, posinf=1.0, neginf=0.0), dtype=np.float64)
