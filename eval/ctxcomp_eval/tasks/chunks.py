"""Long documents as a retriever would hand them over: chunks of whole sentences or turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ctxcomp.types import Passage
from ctxcomp_eval.data import Evidence

CHUNK = 1000
"""Characters of a chunk at most, about 200 tokens; a unit that is longer makes a chunk of its own."""


@dataclass(frozen=True, slots=True)
class Chunked:
    """A document in chunks: what stands where.

    Parameters
    ----------
    passages: the chunks, in order.
    bounds: (start, end) of each in the document, in characters.
    """

    passages: tuple[Passage, ...]
    bounds: tuple[tuple[int, int], ...]

    def evidence(self, ranges: Iterable[tuple[int, int]]) -> tuple[Evidence, ...]:
        """Ranges of the document as stretches of chunks, without what lies between chunks."""
        return tuple(
            (i, max(a, start) - start, min(b, end) - start)
            for a, b in ranges
            for i, (start, end) in enumerate(self.bounds)
            if a < end and start < b
        )


def chunked(name: str, text: str, units: Sequence[tuple[int, int]], size: int = CHUNK) -> Chunked:
    """Cut a text into chunks of at most ``size`` characters, between units.

    Parameters
    ----------
    name: the document's; a chunk's id is this and its number, from 0.
    units: (start, end) in characters, in order, never cut.
    """
    bounds: list[tuple[int, int]] = []
    for start, end in units:
        if bounds and end - bounds[-1][0] <= size:
            bounds[-1] = (bounds[-1][0], end)
        else:
            bounds.append((start, end))
    passages = tuple(Passage(text[a:b], id=f"{name}:{i}") for i, (a, b) in enumerate(bounds))
    return Chunked(passages, tuple(bounds))
