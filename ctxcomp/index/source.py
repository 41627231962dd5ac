"""Where an index's vectors come from: one of our encoders, or the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ctxcomp.encode.options import EncoderOptions
from ctxcomp.errors import InputError
from ctxcomp.index.codes import Floats
from ctxcomp.progress import listen, tracked

BLOCK = 512
"""Texts that are encoded at a time; between blocks the caller hears of progress and can stop."""


@dataclass(frozen=True)
class Source:
    """Makes vectors, or names what made them.

    Parameters
    ----------
    encoder: how our encoder runs; None where the vectors are the user's own.
    name: the model, or the user's label for it.
    weights_hash: of the model; "" for the user's own.
    """

    encoder: EncoderOptions | None
    name: str
    weights_hash: str = ""

    @classmethod
    def of(cls, model: str | EncoderOptions) -> Source:
        """One of our encoders, by name, path or options."""
        options = EncoderOptions(model=model) if isinstance(model, str) else model
        if not isinstance(options, EncoderOptions):
            raise InputError(f"model must be a name, a path or EncoderOptions, got {type(model).__name__}")
        return cls(options, options.model, options.weights_hash())

    def embed(self, texts: Sequence[str]) -> Floats:
        """Vectors of length 1, float32 ``[texts, d]``.

        Raises
        ------
        InputError: the index holds the user's own vectors, which nothing here can make.
        """
        if self.encoder is None:
            label = f" (of {self.name!r})" if self.name else ""
            raise InputError(f"this index holds vectors of your own{label}: give a vector, float32 [d], not a text")
        encoder = self.encoder.load_encoder()
        if encoder.weights_hash != self.weights_hash:
            raise InputError(
                f"the index was built with {self.name!r}, weights {self.weights_hash[:12]}; the model there has now "
                f"{encoder.weights_hash[:12]}: give the same model, or build the index anew"
            )
        blocks = [texts[at : at + BLOCK] for at in range(0, len(texts), BLOCK)]
        vectors = np.empty((len(texts), encoder.hidden_size), np.float32)
        for at, block in enumerate(tracked(blocks)):
            with _unheard():
                vectors[at * BLOCK : at * BLOCK + len(block)] = encoder.embed(block)
        return vectors

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {"own": self.encoder is None, "name": self.name, "weights_hash": self.weights_hash}

    @classmethod
    def from_dict(cls, stored: dict[str, Any], model: str | EncoderOptions | None) -> Source:
        """The source that an index names; ``model`` says where it is now, or how it runs.

        Raises
        ------
        InputError: ``model`` is another one than the index was built with.
        """
        if stored["own"]:
            if model is not None and model != stored["name"]:
                raise InputError(f"the index holds vectors of your own, of {stored['name']!r}, not of {model!r}")
            return cls(None, stored["name"])
        options = EncoderOptions(model=stored["name"]) if model is None else model
        found = cls.of(options) if model is not None else cls(EncoderOptions(model=stored["name"]), stored["name"])
        if model is not None and found.weights_hash != stored["weights_hash"]:
            raise InputError(
                f"the index was built with {stored['name']!r}, weights {stored['weights_hash'][:12]}; {found.name!r} "
                f"has {found.weights_hash[:12]}: give the same model, or build the index anew"
            )
        return cls(found.encoder, found.name, stored["weights_hash"])


def _unheard() -> AbstractContextManager[None]:
    """The encoder's own batches are not reported: their total is a block's."""
    return listen(lambda done, total: None)


def checked_vectors(given: Any, count: int | None, dimension: int | None, metric: str) -> Floats:
    """Vectors as float32 ``[n, d]``, of length 1 where the metric is the cosine.

    Parameters
    ----------
    count, dimension: what they must be; None for any.

    Raises
    ------
    InputError: another shape, something that is no number, or a row that is not finite.
    """
    try:
        vectors = np.array(given, dtype=np.float32, ndmin=2)
    except (TypeError, ValueError) as error:
        raise InputError(f"vectors must be numbers [n, d]: {error}") from None
    wanted = (count, dimension)
    if (
        vectors.ndim != 2
        or not vectors.shape[1]
        or any(w not in (None, n) for w, n in zip(wanted, vectors.shape, strict=True))
    ):
        shape = f"[{'n' if count is None else count}, {'d' if dimension is None else dimension}]"
        raise InputError(f"vectors must have the shape {shape}, got {list(vectors.shape)}")
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise InputError(
            f"vectors must be finite numbers: row {broken[0]} is not ({len(broken)} of {len(vectors)} rows)"
        )
    if metric == "cosine":
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors
