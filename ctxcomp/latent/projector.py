"""xRAG: the vector that the retriever has for a passage becomes one token of the generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctxcomp.encode import Encoder, load_encoder
from ctxcomp.errors import InputError, ModelError
from ctxcomp.generate.prompts import readable
from ctxcomp.latent.base import LatentCompressor
from ctxcomp.latent.binding import check_generator
from ctxcomp.latent.networks import ProjectorNetwork
from ctxcomp.latent.shards import shards
from ctxcomp.latent.store import Vectors, embedding_of
from ctxcomp.latent.weights import digest, load_projector, stamp
from ctxcomp.types import Passage


@dataclass(frozen=True, kw_only=True)
class Projector(LatentCompressor):
    """One token for each passage: ``e = W_2 gelu(W_1 v + b_1) + b_2`` of the retriever's vector ``v``.

    A passage's own ``embedding`` is reused. Passages longer than a shard have a vector for each, embedded anew.

    Parameters
    ----------
    weights: a safetensors file of ours, or a checkpoint folder of xRAG.
    retriever: an encoder as ``ctxcomp.encode.load_encoder`` takes it, or any object with ``encode(list of texts)``
        such as a SentenceTransformer; None where every passage brings its ``embedding``.
    shard_tokens: the generator's tokens that one vector stands for, at most, >= 1.

    Source: xRAG, Cheng et al. 2024; shards of 180 tokens of which a last one of 20 or fewer is dropped.
    """

    retriever: Any = "minilm"
    shard_tokens: int = 180

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard_tokens < 1:
            raise InputError(f"shard_tokens must be 1 or more, got {self.shard_tokens}")
        network, facts = _loaded(str(self.weights), stamp(self.weights))
        hidden = self.generator.model.get_input_embeddings().weight.shape[1]
        if network.hidden_size != hidden:
            raise ModelError(
                f"{self.weights} projects to {network.hidden_size} numbers, the generator's embeddings have {hidden}"
            )
        if "generator" in facts:  # published checkpoints do not say
            check_generator(facts["generator"], self.generator)
        if isinstance(self.retriever, str) and "retriever" in facts and facts["retriever"] != self.retriever:
            raise InputError(
                f"{self.weights} was trained on vectors of {facts['retriever']!r}, not of {self.retriever!r}: "
                "vectors of another retriever mean something else"
            )

    @property
    def network(self) -> ProjectorNetwork:
        """The trained projector."""
        return _loaded(str(self.weights), stamp(self.weights))[0]

    def made_by(self) -> dict[str, str]:
        """Weights, retriever and shards."""
        name = self.retriever if isinstance(self.retriever, str) else type(self.retriever).__name__
        return {"weights": digest(self.network), "retriever": str(name), "shard_tokens": str(self.shard_tokens)}

    def encode(self, passages: Sequence[Passage]) -> list[Vectors]:
        """One vector for each shard of each passage."""
        pieces = [shards(self.generator.tokenizer, passage.text, self.shard_tokens) for passage in passages]
        stored = [
            embedding_of(passage) if texts and (len(texts) == 1 or self.retriever is None) else None
            for passage, texts in zip(passages, pieces, strict=True)
        ]
        asked = [text for own, texts in zip(stored, pieces, strict=True) if own is None for text in texts]
        embedded = self.embed(asked)
        rows, at = [], 0
        for own, texts in zip(stored, pieces, strict=True):
            if own is not None:
                rows.append(self._checked(own[None]))
            else:
                rows.append(embedded[at : at + len(texts)])
                at += len(texts)
        projected = self._project(np.concatenate(rows)) if rows else embedded
        ends = np.cumsum([len(row) for row in rows]).tolist()
        return [projected[end - len(row) : end] for end, row in zip(ends, rows, strict=True)]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The retriever's vectors ``[texts, dim]``.

        Raises
        ------
        InputError: there is no retriever, or its vectors are of another width than the projector's.
        """
        if not texts:
            return np.zeros((0, self.network.retriever_size), np.float32)
        if self.retriever is None:
            raise InputError("a passage has no embedding and there is no retriever: give retriever=, or embeddings")
        retriever = load_encoder(self.retriever) if isinstance(self.retriever, (str, Path)) else self.retriever
        if isinstance(retriever, Encoder):
            return self._checked(retriever.embed(texts))
        if not callable(getattr(retriever, "encode", None)):
            kind = type(retriever).__name__
            raise InputError(f"retriever must be an encoder's name or an object with encode(texts), got {kind}")
        return self._checked(np.asarray(retriever.encode([readable(text) for text in texts]), np.float32))

    def relevance(self, query: str, passages: Sequence[Passage]) -> list[float]:
        """The retriever's scores where all passages have one; else how close their vectors are to the query's."""
        if any(p.score is None for p in passages) and query and self.retriever is not None:
            known = [embedding_of(p) for p in passages]
            missing = iter(self.embed([p.text for p, own in zip(passages, known, strict=True) if own is None]))
            vectors = self._checked(np.stack([next(missing) if own is None else own for own in known]))
            close: list[float] = (vectors @ self.embed([query])[0]).tolist()
            return close
        return super().relevance(query, passages)

    def _checked(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        wanted = self.network.retriever_size
        if vectors.ndim != 2 or vectors.shape[1] != wanted or not np.isfinite(vectors).all():
            raise InputError(
                f"the projector takes finite vectors of {wanted} numbers, got {list(vectors.shape)}: "
                "it belongs to another retriever"
            )
        return vectors

    def _project(self, vectors: NDArray[np.float32]) -> Vectors:
        with torch.inference_mode():
            projected: Vectors = self.network(torch.from_numpy(vectors)).numpy()
        return projected


@lru_cache(maxsize=4)
def _loaded(path: str, _: str) -> tuple[ProjectorNetwork, dict[str, str]]:
    return load_projector(path)
