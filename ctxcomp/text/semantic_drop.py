"""`semantic_drop`: drop the words whose removal moves the sentence embedding least (TCRA-style)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ctxcomp.candidates import Candidates
from ctxcomp.compressor import Scores, Selector
from ctxcomp.encode.options import EncoderOptions
from ctxcomp.errors import InputError
from ctxcomp.fit import protection
from ctxcomp.segment import Level, segment
from ctxcomp.text.keywords import GUARDED, content_words, guarded
from ctxcomp.text.phrases import whole_phrases

_VARIANTS = 4096
"""Variants that are embedded together: bounds memory, and changes no result."""
_GUARD = 2.0
"""More than any rank."""


@dataclass(frozen=True, kw_only=True)
class SemanticDrop(EncoderOptions, Selector):
    """Keeps the words without which a sentence would mean something else, as its embedding sees it.

    A word is worth the cosine distance between its window, a sentence or a part of it, with and without the word. All
    variants of a request run through the encoder together; a window of ``n`` words costs ``n + 1`` short passes, so
    the cost grows with the text and not with its square.

    Parameters
    ----------
    unit: "word"; other units work, each left out of its own window.
    window: words of a window at most, >= 2: longer sentences are cut into windows.
    guard: patterns as in ``protect``, whose words go last, but go where the budget asks for it; ``protect`` guarantees.
    phrases: function words go before content words, and names, numbers and runs of content words rank as wholes
        (`ctxcomp.text.phrases`).
    query_weight: how much the word's share in the similarity to the query adds, >= 0.

    Source
    ------
    Liu et al., "TCRA-LLM: Token Compression Retrieval Augmented Large Language Model for Inference Cost Reduction"
    (2023), its semantic compression. It has no public code: TCRA-style, no parity is claimed. Deviations: words are
    scored once, not again after each removal; in windows; guards, phrases and the query term are ours.
    """

    unit: Level = "word"
    window: int = 12
    # 120 questions of span_dev, answer retention at keep .8, .65, .5: distances alone .776 .664 .500; phrases .888 .784
    # .647; function words first as well .957 .776 .664 with the guard. Windows of 8 to 24 words are alike.
    guard: tuple[str, ...] = GUARDED
    phrases: bool = True
    query_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 2 or self.query_weight < 0:
            raise InputError(
                f"window must be 2 or more and query_weight 0 or more, got {self.window} and {self.query_weight}"
            )
        protection(self.guard)

    def score(self, batch: Sequence[Candidates]) -> list[Scores]:
        """The rank of each word's distance among the request's, in (0, 1); guarded words have 2 more."""
        distances = self._distances(batch)
        scores = []
        for units, own in zip(batch, distances, strict=True):
            ranked = _ranks(own)
            if self.phrases and self.unit == "word":
                ranked = whole_phrases(units, (ranked + content_words(units)) / 2)
            scores.append(ranked + _GUARD * guarded(units, self.guard))
        return scores

    def _distances(self, batch: Sequence[Candidates]) -> list[Scores]:
        windows = [list(_windows(units, self.window)) for units in batch]
        encoder = self.load_encoder()
        queries = [units.query for units in batch if self.query_weight and units.query.strip()]
        asked = dict(zip(queries, encoder.embed(queries), strict=True)) if queries else {}
        known: dict[tuple[str, ...], NDArray[np.float32]] = {}
        wanted = {_variants(units, w): None for units, own in zip(batch, windows, strict=True) for w in own}
        for part in _parts(list(wanted)):
            vectors = encoder.embed([text for variants in part for text in variants])
            edges = np.cumsum([0, *(len(variants) for variants in part)]).tolist()
            known |= {variants: vectors[a:b] for variants, a, b in zip(part, edges[:-1], edges[1:], strict=True)}
        return [
            self._request(units, own, known, asked.get(units.query)) for units, own in zip(batch, windows, strict=True)
        ]

    def _request(
        self,
        units: Candidates,
        windows: Sequence[slice],
        known: dict[tuple[str, ...], NDArray[np.float32]],
        query: NDArray[np.float32] | None,
    ) -> Scores:
        scores = np.zeros(len(units))
        for window in windows:
            vectors = known[_variants(units, window)].astype(np.float64)
            whole, without = vectors[0], vectors[1:]
            scores[window] = (1 - without @ whole) * len(without) ** 0.5
            if query is not None:
                scores[window] += self.query_weight * (whole @ query - without @ query)
        return scores


def _windows(units: Candidates, size: int) -> Iterator[slice]:
    """Sentences of each passage as ranges of units, the long ones in equal parts of at most ``size`` units."""
    for p, passage in enumerate(units.passages):
        mine = units.units_of(p)
        starts = segment(passage.text, "sentence").start
        owner = np.searchsorted(starts, units.start[mine], side="right")
        edges = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(owner)]
        for a, b in pairwise(edges):
            parts = -(-(b - a) // size)
            cuts = [a + (b - a) * i // max(parts, 1) for i in range(parts + 1)]
            yield from (slice(mine.start + c, mine.start + d) for c, d in pairwise(cuts))


def _variants(units: Candidates, window: slice) -> tuple[str, ...]:
    """The window's text, and the text without each of its units."""
    texts = units.texts[window]
    rows = enumerate(zip(texts, units.gap[window].tolist(), strict=True))
    spaced = [(" " if gap and i else "") + text for i, (text, gap) in rows]
    return ("".join(spaced), *("".join(spaced[:i] + spaced[i + 1 :]).strip() for i in range(len(spaced))))


def _parts(windows: list[tuple[str, ...]]) -> Iterator[list[tuple[str, ...]]]:
    """Windows in lists of about `_VARIANTS` variants."""
    part: list[tuple[str, ...]] = []
    held = 0
    for variants in windows:
        if part and held + len(variants) > _VARIANTS:
            yield part
            part, held = [], 0
        part.append(variants)
        held += len(variants)
    if part:
        yield part


def _ranks(values: Scores) -> Scores:
    """Ranks in (0, 1), equal for equal values."""
    _, place = np.unique(np.round(values, 9), return_inverse=True)
    return np.asarray((place + 0.5) / (place.max(initial=0) + 1), np.float64)
