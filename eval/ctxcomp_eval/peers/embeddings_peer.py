"""Plain sentence embeddings: the cosine of query and sentence, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from ctxcomp.text.embedding_select import EmbeddingSelect


@dataclass(frozen=True, kw_only=True)
class SentenceEmbeddings(EmbeddingSelect):
    """What most people write first: embed the sentences, keep those closest to the query.

    Ours in everything but the score: segmenter, packer and budget are `embedding_select`'s.
    """

    passage_weight: float = 0.0
