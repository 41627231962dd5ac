"""Compressed vectors in memory and the scan over them: what FAISS does here."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxcomp.errors import InputError
from ctxcomp.index.presets import PAD, Preset
from ctxcomp.optional import require

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


def faiss() -> Any:
    """The module, imported on first use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the wrappers that SWIG generates, on Python 3.12
        return require("faiss", extra="index")


def padded(vectors: Floats) -> Floats:
    """The vectors with zeros up to a multiple of ``PAD``, float32 ``[n, padded]``."""
    missing = -vectors.shape[1] % PAD
    return np.ascontiguousarray(np.pad(vectors, ((0, 0), (0, missing))) if missing else vectors, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Codes:
    """The codes of all vectors. Nothing changes one: ``added`` makes another, so searches need no lock.

    Parameters
    ----------
    preset: what made them.
    index: FAISS's index.
    trained_on: vectors that it was trained on; 0 where nothing is trained.
    assigning: centroids by which vectors get their codes, float32, where those that score them were tuned since.
    """

    preset: Preset
    index: Any
    trained_on: int = 0
    assigning: Floats | None = None

    @classmethod
    def trained(cls, preset: Preset, vectors: Floats, seed: int = 0) -> Codes:
        """Codes of the vectors, float32 ``[n, d]``, n >= 1, trained on a sample of them."""
        dimension = vectors.shape[1] + -vectors.shape[1] % PAD
        index = faiss().index_factory(dimension, preset.factory_string(dimension), faiss().METRIC_INNER_PRODUCT)
        sample = padded(vectors[_sample(len(vectors), preset.train_rows, seed)])
        # Without training data the centre is the origin, which is right for vectors on the unit sphere.
        index.train(sample if preset.train_rows else np.zeros((1, dimension), np.float32))
        index.add(padded(vectors))
        return cls(preset, index, min(len(vectors), preset.train_rows))

    def added(self, vectors: Floats) -> Codes:
        """These codes and those of further vectors, without training anew."""
        return self._with(vectors, reset=False)

    def refilled(self, vectors: Floats) -> Codes:
        """The codes of these vectors instead, without training anew."""
        return self._with(vectors, reset=True)

    def _with(self, vectors: Floats, *, reset: bool) -> Codes:
        made = self if self.assigning is None else self.scored_by(self.assigning)
        index = made.copied()
        if reset:
            index.reset()
        index.add(padded(vectors))
        fresh = replace(self, index=index)
        if self.assigning is not None:
            fresh.set_centroids(self.centroids)
        return fresh

    def copied(self) -> Any:
        """A copy of FAISS's index, whose own ``clone_index`` does not know all kinds."""
        return faiss().deserialize_index(faiss().serialize_index(self.index))

    @property
    def centroids(self) -> Floats:
        """Of product quantization, a copy, float32 ``[parts, 16, numbers of a part]``."""
        quantizer = self.index.pq
        flat = np.array(faiss().vector_to_array(quantizer.centroids), dtype=np.float32)
        return flat.reshape(quantizer.M, quantizer.ksub, quantizer.dsub)

    def set_centroids(self, centroids: Floats) -> None:
        """Score by other centroids from now on; for codes that nobody else searches yet."""
        faiss().copy_array_to_vector(np.ascontiguousarray(centroids, np.float32).ravel(), self.index.pq.centroids)

    def scored_by(self, centroids: Floats) -> Codes:
        """The same codes, scored by other centroids."""
        scored = replace(self, index=self.copied())
        scored.set_centroids(centroids)
        return scored

    def parts(self, vectors: Floats) -> Rows:
        """The centroid of each part of the vectors, int64 ``[n, parts]``."""
        packed = self.index.pq.compute_codes(padded(vectors))
        return np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1).astype(np.int64)

    def outgrown(self, count: int) -> bool:
        """Whether the codes were trained on so few of ``count`` vectors that they should be trained anew."""
        return self.assigning is None and self.trained_on < min(count, self.preset.train_rows) / 2

    def nearest(self, queries: Floats, k: int) -> Rows:
        """The rows, int64 ``[n, k]``, that score best by the codes, k <= len(self)."""
        count = len(self)
        if k == count:
            return np.broadcast_to(np.arange(count), (len(queries), count))
        rows: Rows = self.index.search(padded(queries), k)[1]
        for i in np.flatnonzero((rows < 0).any(axis=1)):
            # The fast scan leaves out what has the least score there is, though nothing better is left.
            own = rows[i]
            own[own < 0] = np.setdiff1d(np.arange(count), own)[: (own < 0).sum()]
        return rows

    def best(self, queries: Floats, k: int, shortlist: int) -> tuple[Floats, Rows]:
        """As ``nearest``, with the shortlist scored by the decoded vectors: the fast scan's own scores are rounded."""
        queries = padded(queries)
        return rerank(queries, self.nearest(queries, shortlist), self.index.reconstruct_batch, k)

    def __len__(self) -> int:
        return int(self.index.ntotal)

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of one code in memory."""
        return int(self.index.sa_code_size())

    def write(self, file: Path) -> None:
        """To a file."""
        faiss().write_index(self.index, str(file))

    @classmethod
    def read(cls, file: Path, preset: Preset, trained_on: int) -> Codes:
        """From a file whose checksum was compared: FAISS trusts what it reads.

        Raises
        ------
        InputError: this FAISS cannot read it.
        """
        try:
            return cls(preset, faiss().read_index(str(file)), trained_on)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{file} cannot be read by faiss {faiss().__version__}: {reason}") from error


def exact_nearest(queries: Floats, vectors: Floats, k: int, device: str = "cpu") -> tuple[Floats, Rows]:
    """The ``k`` vectors of the largest inner products: scores float32 and rows int64 ``[n, k]``, k <= len(vectors)."""
    library = faiss()
    if device == "cpu":
        found = library.knn(queries, np.asarray(vectors), k, metric=library.METRIC_INNER_PRODUCT)
    else:
        found = library.knn_gpu(
            library.StandardGpuResources(), queries, np.asarray(vectors), k, metric=library.METRIC_INNER_PRODUCT
        )
    scores, rows = found[0], found[1]
    return scores, rows


def check_device(device: str, preset: Preset) -> None:
    """Whether vectors can be searched there.

    Raises
    ------
    InputError: no such device, no GPU support in this faiss, or none for this preset.
    """
    if device not in ("cpu", "cuda"):
        raise InputError(f"device must be 'cpu' or 'cuda', got {device!r}")
    if device == "cuda" and preset.factory:
        raise InputError(f"faiss searches codes of the preset {preset.name!r} on the CPU only: use 'exact' on a GPU")
    if device == "cuda" and not (hasattr(faiss(), "knn_gpu") and getattr(faiss(), "get_num_gpus", int)()):
        raise InputError("this faiss sees no GPU (faiss-cpu has no GPU code): install faiss-gpu, or use device='cpu'")


def rerank(queries: Floats, rows: Rows, fetch: Callable[[Rows], Floats], k: int) -> tuple[Floats, Rows]:
    """The best ``k`` of each query's rows by vectors that are fetched; ties go to the earlier row.

    Parameters
    ----------
    queries: ``[n, d]``.
    rows: ``[n, shortlist]``.
    fetch: the vectors ``[r, d]`` of rows ``[r]``.

    Returns
    -------
    Scores float32 and rows int64, ``[n, k]``.
    """
    ordered = np.sort(rows, axis=1)  # in the order of the file, which is that of the ties too
    scores = np.stack([fetch(own) @ query for query, own in zip(queries, ordered, strict=True)])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, best, 1), np.take_along_axis(ordered, best, 1)


def _sample(count: int, rows: int, seed: int) -> Rows:
    """``rows`` of ``count`` row numbers in order, all of them repeated where there are fewer."""
    if count >= rows:
        return np.sort(np.random.default_rng(seed).permutation(count)[:rows])
    # Repetition instead of few points: k-means then finds one centroid for each, and FAISS does not complain.
    return np.resize(np.arange(count), rows)
