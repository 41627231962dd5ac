"""Passages on disk: JSON lines and where each begins, read through a memory map."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from ctxcomp.errors import InputError
from ctxcomp.types import Passage

TEXTS, OFFSETS = "passages.jsonl", "offsets.npy"


def as_passages(given: Iterable[Passage | str]) -> list[Passage]:
    """Passages; a text becomes one.

    Raises
    ------
    InputError: something else is among them, or metadata that JSON cannot hold.
    """
    if isinstance(given, (str, bytes, Passage)) or not isinstance(given, Iterable):
        raise InputError(f"passages must be a list of Passage or str, got {type(given).__name__}")
    passages = []
    for i, item in enumerate(given):
        if not isinstance(item, (str, Passage)):
            raise InputError(f"passages[{i}] must be a Passage or a str, got {type(item).__name__}")
        passage = Passage(item) if isinstance(item, str) else item
        if passage.metadata:
            _encode(passage, i)
        passages.append(passage)
    return passages


def write_passages(folder: Path, passages: Sequence[Passage]) -> None:
    """Write texts, ids, titles and metadata; scores and vectors belong to a search and to the index."""
    offsets = np.zeros(len(passages) + 1, np.int64)
    with (folder / TEXTS).open("wb") as lines:
        for i, passage in enumerate(passages):
            offsets[i + 1] = offsets[i] + lines.write(_encode(passage, i))
    np.save(folder / OFFSETS, offsets)


def _encode(passage: Passage, i: int) -> bytes:
    row = {"text": passage.text, "id": passage.id, "title": passage.title, "metadata": dict(passage.metadata)}
    try:
        # A lone surrogate, which UTF-8 refuses, comes back as it was.
        return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"passages[{i}].metadata must be what JSON can hold: {error}") from None


class PassageFile(Sequence[Passage]):
    """The passages of a folder; each is read when it is asked for. Safe to read from several threads."""

    def __init__(self, folder: Path) -> None:
        self._offsets = np.load(folder / OFFSETS, allow_pickle=False)
        with (folder / TEXTS).open("rb") as file:
            # An empty file cannot be mapped.
            self._text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self._offsets[-1] else b""

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, i: int) -> Passage: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Passage]: ...
    def __getitem__(self, i: int | slice) -> Passage | Sequence[Passage]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        row = range(len(self))[i]
        line = self._text[self._offsets[row] : self._offsets[row + 1]]
        return Passage(**json.loads(line.decode("utf-8", "surrogatepass")))
