"""Vectors on disk: safetensors with a checksum, the passages' hashes and the generator that may read them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctxcomp.errors import CacheError, InputError
from ctxcomp.generate.documents import store
from ctxcomp.generate.generator import Generator
from ctxcomp.latent.binding import check_generator, check_latents
from ctxcomp.types import CompressedLatents, Passage, Stats

Vectors = NDArray[np.float32]
VECTORS = "vectors"


def text_hash(text: str) -> str:
    """sha256 of a passage's text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def embedding_of(passage: Passage) -> NDArray[np.float32] | None:
    """The vector that a passage brings, ``[dim]``, or None.

    Raises
    ------
    InputError: it is no vector of numbers.
    """
    if passage.embedding is None:
        return None
    try:
        found = np.asarray(passage.embedding, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"Passage.embedding must be numbers, got {passage.embedding!r:.50}") from error
    if found.ndim != 1:
        raise InputError(f"Passage.embedding must be one vector, got the shape {list(found.shape)}")
    return found


class Folder:
    """One file for each passage of one method and one generator; any number of processes may share it.

    Parameters
    ----------
    path: made if it is not there.
    made_by: what decides the vectors besides the passage: method, weights, retriever, generator.
    """

    def __init__(self, path: str | Path, made_by: dict[str, str]) -> None:
        self.path, self._made_by = Path(path), made_by

    def read(self, passage: Passage) -> Vectors | None:
        """The passage's vectors, or None where they are not there.

        Raises
        ------
        CacheError: they were made for another generator or by other weights, or the file is damaged.
        """
        file = self._file(passage)
        if not file.is_file():
            return None
        tensors, _ = store.read(file, {**self._made_by, "passage": text_hash(passage.text)})
        found: Vectors = tensors[VECTORS].numpy()
        return found

    def write(self, passage: Passage, vectors: Vectors) -> None:
        """Store a passage's vectors.

        Raises
        ------
        CacheError: the folder cannot be written.
        """
        facts = {**self._made_by, "passage": text_hash(passage.text)}
        store.write(self._file(passage), {VECTORS: torch.from_numpy(vectors)}, facts)

    def _file(self, passage: Passage) -> Path:
        # The generator is no part of the name: its vectors are to be refused by another one, not to lie unseen.
        own = embedding_of(passage)
        digest = hashlib.sha256(f"{self._made_by['method']} {text_hash(passage.text)}".encode())
        digest.update(b"" if own is None else own.tobytes())
        key = digest.hexdigest()
        return self.path / f"{key[:40]}.safetensors"


def save_latents(latents: CompressedLatents, path: str | Path) -> None:
    """Write a compressed context to a file.

    Raises
    ------
    CacheError: the file cannot be written.
    """
    facts = {
        "generator": latents.generator,
        "sources": json.dumps(latents.sources),
        "passages": json.dumps([text_hash(passage.text) for passage in latents.passages]),
        "stats": json.dumps([latents.stats.tokens_in, latents.stats.counter, latents.stats.method]),
    }
    store.write(Path(path), {VECTORS: torch.from_numpy(latents.vectors)}, facts)


def read_latents(path: str | Path, generator: Generator, passages: Sequence[Passage] = ()) -> CompressedLatents:
    """A compressed context from a file.

    Parameters
    ----------
    generator: the model that is to read it.
    passages: those that it was made of, which the file knows by their hashes only; () leaves them out.

    Raises
    ------
    CacheError: the file is missing or damaged.
    InputError: it was made for another generator, or of other passages.
    """
    tensors, facts = store.read(Path(path), {})
    if VECTORS not in tensors or "sources" not in facts:
        raise CacheError(f"{path} holds no latents: it was written by something else")
    check_generator(facts["generator"], generator)
    if passages and [text_hash(passage.text) for passage in passages] != json.loads(facts["passages"]):
        raise InputError(f"{path} was made of other passages than these {len(passages)}: compress them again")
    vectors = tensors[VECTORS].numpy()
    tokens_in, counter, method = json.loads(facts["stats"])
    found = CompressedLatents(
        vectors=vectors,
        generator=facts["generator"],
        sources=tuple(json.loads(facts["sources"])),
        passages=tuple(passages),
        stats=Stats(tokens_in, len(vectors), 0.0, counter, method),
    )
    check_latents([found], generator)
    return found


def facts_of(**facts: Any) -> dict[str, str]:
    """Facts as safetensors holds them: text."""
    return {name: str(value) for name, value in facts.items()}
