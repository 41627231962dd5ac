"""The vectors that a retriever stored with its passages."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctxcomp.candidates import Candidates
from ctxcomp.errors import InputError


def stored_vectors(units: Candidates, dimension: int, model: str, *, normalize: bool) -> NDArray[np.float32]:
    """``Passage.embedding`` of each passage, float32 ``[passages, dimension]``.

    Parameters
    ----------
    dimension, model: what they must be made with.
    normalize: scale each to length 1.

    Raises
    ------
    InputError: a passage has none, or one of another size.
    """
    vectors = np.zeros((len(units.passages), dimension), np.float32)
    for p, passage in enumerate(units.passages):
        vector = np.asarray([] if passage.embedding is None else passage.embedding, dtype=np.float32)
        if vector.shape != (dimension,) or not np.isfinite(vector).all():
            raise InputError(
                f"reuse_embeddings: passages[{p}].embedding must be {dimension} finite numbers, as {model!r} makes "
                f"them, got shape {vector.shape}"
            )
        length = float(np.linalg.norm(vector)) if normalize else 1.0
        vectors[p] = vector / max(length, 1e-12)
    return vectors
