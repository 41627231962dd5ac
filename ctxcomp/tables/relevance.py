"""Which rows and columns a question asks about: by its words, without a model."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ctxcomp.tables.grid import Ints, Sheet
from ctxcomp.text.bm25 import STOP_WORDS, words

MAX_WORDS = 64
"""Of a question that are looked for."""

Floats = NDArray[np.float64]


def row_relevance(sheet: Sheet, rows: Ints, query: str) -> tuple[Floats, Floats]:
    """How much each row has to do with the question, ``[rows]``, and each text, ``[texts]``; 0 for nothing.

    A row has the words that it shares with the question, rare ones for more, and what its best text has: those words
    again, as far as the text is made of them.

    Parameters
    ----------
    rows: the rows of the sheet's cells, sorted.
    """
    return _relevance(sheet, np.searchsorted(rows, sheet.row), len(rows), query)


def column_relevance(sheet: Sheet, cols: Ints, query: str, header_rows: Ints) -> Floats:
    """The same for columns, ``[cols]``, by their cells in the header rows."""
    headers = sheet.where(np.isin(sheet.row, header_rows))
    return _relevance(headers, np.searchsorted(cols, headers.col), len(cols), query)[0]


def _relevance(sheet: Sheet, line: Ints, lines: int, query: str) -> tuple[Floats, Floats]:
    score, named = np.zeros(lines), np.zeros(len(sheet.texts))
    wanted = list(dict.fromkeys(w for w in words(query) if w not in STOP_WORDS))[:MAX_WORDS]
    if not wanted or not len(sheet):
        return score, named
    used = np.unique(sheet.text)
    found = dict(_matches(sheet, used, wanted))
    weight = np.zeros(len(wanted))
    for i, word in enumerate(wanted):
        texts = np.array([text for text, (present, _) in found.items() if word in present], np.int64)
        holding = np.unique(line[np.isin(sheet.text, texts)])
        if len(holding):
            weight[i] = np.log1p(lines / len(holding))
            score[holding] += weight[i]
    by_word = dict(zip(wanted, weight.tolist(), strict=True))
    for text, (present, size) in found.items():
        named[text] = sum(by_word[word] for word in present) * len(present) / size
    np.maximum.at(best := np.zeros(lines), line, named[sheet.text])
    return score + best, named


def _matches(sheet: Sheet, used: Ints, wanted: list[str]) -> Iterator[tuple[int, tuple[set[str], int]]]:
    """For each text that holds words of the question: which, and how many words it has."""
    anywhere = re.compile("|".join(map(re.escape, wanted)))
    for i in used.tolist():
        text = sheet.texts[i].lower()
        if anywhere.search(text):
            own = set(words(text))
            if present := own & set(wanted):
                yield i, (present, len(own))
