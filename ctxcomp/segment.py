"""Text to units with exact character offsets: the first step of every text method.

Blocks are found first (`ctxcomp.blocks`), then sentences (`ctxcomp.sentences`) or words (`ctxcomp.words`) in them.
The sentence rules are our own because the measurement said so (`python -m ctxcomp_eval.bench.segmenters`, two busy
cores, Python 3.11). F1 is over sentence ends: "hard" is 81 cases in 21 languages, not used for tuning but written
by the author of the rules, "news" 600 joined news sentences, "papers" 600 abstracts; "exact" is the share of texts
with every offset right:

    library            MB/s   exact   hard F1   news F1   papers F1
    sentencex 1.0.32   36     0.997   0.872     0.978     0.917
    blingfire 0.1.8    3.5    0.995   0.814     0.957     0.919
    syntok 1.4.4       0.9    1.000   0.804     0.959     0.917
    pysbd 0.3.4        0.1    1.000   0.758     0.920     0.927
    nltk 3.10.4        4.5    1.000   0.661     0.934     0.911
    fast-bunkai 0.1.1  22     0.997   0.625     0.920     0.897
    this module        19     1.000   0.990     0.979     0.919

On plain English sentencex is as good and twice as fast. It raises on lone surrogates, takes quadratic time on runs of
backticks (15 s for 200 kB) and unclosed quotes, never cuts inside quotes, and wants to be told the language (0.902
on "hard" when it is told).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ctxcomp.blocks import GAP, Block, Kind, blocks, rows
from ctxcomp.errors import InputError
from ctxcomp.sentences import sentences
from ctxcomp.words import is_url, url_signs, words

__all__ = ["DEFAULT_WHOLE", "GAP", "Kind", "Level", "Units", "segment"]

Level = Literal["passage", "paragraph", "sentence", "word"]

DEFAULT_WHOLE: Mapping[Level, frozenset[Kind]] = MappingProxyType(
    {
        "passage": frozenset(Kind),
        "paragraph": frozenset(Kind),
        "sentence": frozenset(Kind) - {Kind.TEXT},
        "word": frozenset({Kind.CODE, Kind.TABLE, Kind.JSON, Kind.URL}),
    }
)
"""The kinds of block that stay one unit at each level."""


@dataclass(frozen=True, slots=True)
class Units:
    """Units of one text: parallel arrays.

    Parameters
    ----------
    start, end: int64 ``[n]``, character offsets, half-open, increasing, not overlapping, never empty.
    kind: int8 ``[n]``, values of `Kind`.
    """

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    kind: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.start)


def segment(text: str, level: Level = "sentence", *, whole: frozenset[Kind] | None = None) -> Units:
    """Cut a text into units.

    Units are tight: no unit begins or ends with a character of `GAP`, and between units there is nothing else, so
    every visible character is in exactly one unit. Units may touch (Chinese words, for example).

    Parameters
    ----------
    text: any Unicode, lone surrogates included; offsets are Python characters.
    level: "passage" (one unit), "paragraph" (one unit a block: paragraph, heading, list item, table, code, JSON),
        "sentence" or "word".
    whole: the kinds of block to leave uncut, `DEFAULT_WHOLE` of the level if None; the other blocks are cut, prose,
        list items and headings into sentences or words, code, tables and JSON into lines (at level "word": words).
        Without effect at "passage" and "paragraph". URLs are never cut, whether listed or not.

    Raises
    ------
    InputError: `text` is not a str, or `level` or a kind in `whole` is unknown.
    """
    if not isinstance(text, str):
        raise InputError(f"segment() takes a str, got {type(text).__name__}: decode bytes first")
    if level not in get_args(Level):
        raise InputError(f"level must be one of {', '.join(get_args(Level))}, got {level!r}")
    whole = DEFAULT_WHOLE[level] if whole is None else whole
    if not all(isinstance(kind, Kind) for kind in whole):
        raise InputError(f"whole must hold members of Kind, got {whole!r}")
    if level == "passage":
        body = text.strip(GAP)
        start = len(text) - len(text.lstrip(GAP))
        return _units([(start, start + len(body))] if body else [], [int(Kind.TEXT)])
    found = blocks(text)
    if level == "paragraph":
        return _mark_urls(text, _units([(b.start, b.end) for b in found], [int(b.kind) for b in found]))
    return _mark_urls(text, _cut(text, found, level, whole))


def _cut(text: str, found: list[Block], level: Level, whole: frozenset[Kind]) -> Units:
    spans: list[tuple[int, int]] = []
    kinds: list[int] = []
    for start, end, kind in found:
        pieces = [(start, end)] if kind in whole else _cutter(level, kind)(text, start, end)
        spans += pieces
        kinds += [int(kind)] * len(pieces)
    return _units(spans, kinds)


def _cutter(level: Level, kind: Kind) -> Callable[[str, int, int], list[tuple[int, int]]]:
    if level == "word":
        return words
    return rows if kind in (Kind.CODE, Kind.TABLE, Kind.JSON) else sentences


def _units(spans: list[tuple[int, int]], kinds: list[int]) -> Units:
    offsets = np.array(spans, dtype=np.int64).reshape(-1, 2)
    return Units(offsets[:, 0].copy(), offsets[:, 1].copy(), np.array(kinds[: len(spans)], dtype=np.int8))


def _mark_urls(text: str, units: Units) -> Units:
    """The same units; those of prose that are a URL or an e-mail address get that kind."""
    signs = url_signs(text)
    if not signs:
        return units
    for i in np.unique(np.searchsorted(units.start, signs, side="right") - 1).tolist():
        if units.kind[i] in (Kind.TEXT, Kind.LIST_ITEM, Kind.HEADING) and is_url(text[units.start[i] : units.end[i]]):
            units.kind[i] = Kind.URL
    return units
