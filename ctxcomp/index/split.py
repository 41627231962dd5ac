"""Documents to passages: whole sentences are packed until a passage is full."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ctxcomp.counting import CounterLike, TokenCounter, resolve_counter
from ctxcomp.errors import InputError
from ctxcomp.segment import segment
from ctxcomp.types import Passage

PASSAGE_TOKENS = 160
"""MiniLM reads 256 tokens of its own, and splits English finer than the default counter."""


def split(documents: Iterable[Passage], tokens: int = PASSAGE_TOKENS, counter: CounterLike = None) -> Iterator[Passage]:
    """Cut documents into passages of whole sentences, none of them longer than ``tokens`` unless one word is.

    Parameters
    ----------
    documents: what is short enough stays as it is.
    tokens: of a passage at most, >= 1.
    counter: counts them, see `ctxcomp.counting`.

    Returns
    -------
    Slices of the documents: ``document.text[start:end]``, with ``source``, ``start`` and ``end`` in their metadata and
    the id ``source#start``. What is blank is left out.

    Raises
    ------
    InputError: ``tokens`` is less than 1.
    """
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise InputError(f"a passage must have 1 token or more, got tokens={tokens!r}")
    count = resolve_counter(counter)
    for document in documents:
        if not document.text.strip():
            continue
        # A token has at least a character, so most short texts need no counting.
        if len(document.text) <= tokens or count.count(document.text) <= tokens:
            yield document
            continue
        for start, end in _pack(document.text, tokens, count):
            place = {"source": document.id, "start": start, "end": end}
            yield Passage(
                document.text[start:end],
                id=f"{document.id}#{start}",
                title=document.title,
                metadata={**document.metadata, **place},
            )


def _pack(text: str, tokens: int, counter: TokenCounter) -> Iterator[tuple[int, int]]:
    spans = _units(text, tokens, counter)
    sizes = _counts(text, spans, counter)
    start = end = used = 0
    for (a, b), size in zip(spans.tolist(), sizes.tolist(), strict=True):
        # One for the space or line break between two units; longer gaps may also be cut otherwise beside words.
        gap = 1 if a - end <= 1 else counter.count(text[end:a]) + 1
        if used and used + size + gap > tokens:
            yield start, end
            used = 0
        start = a if not used else start
        end, used = b, used + size + (gap if used else 0)
    if used:
        yield start, end


def _units(text: str, tokens: int, counter: TokenCounter) -> NDArray[np.int64]:
    """Sentences and whole blocks; those that are too long alone as their words. Int64 ``[n, 2]``."""
    units = segment(text)
    spans = np.stack([units.start, units.end], axis=1)
    pieces = []
    for (a, b), size in zip(spans.tolist(), _counts(text, spans, counter).tolist(), strict=True):
        if size <= tokens:
            pieces.append([(a, b)])
        else:
            words = segment(text[a:b], "word", whole=frozenset())
            pieces.append([(a + s, a + e) for s, e in zip(words.start.tolist(), words.end.tolist(), strict=True)])
    return np.array([span for piece in pieces for span in piece], dtype=np.int64).reshape(-1, 2)


def _counts(text: str, spans: NDArray[np.int64], counter: TokenCounter) -> NDArray[np.int64]:
    # At least one each, so that what counts nothing, control characters, still ends.
    return np.maximum(1, np.array(counter.count_batch([text[a:b] for a, b in spans.tolist()]), dtype=np.int64))
