"""Is the asked cell still in the compressed sheet: questions from real workbooks, ours against baselines.

A question names a row label and a column header of a number: "What is LABEL for HEADER?". Its cell is *held* if the
text shows it with its address, and *readable* if the label and the header are shown too. The baselines have the same
number of tokens: the plain encoding ``A1,value|`` cut at the end, random rows, and rows by BM25, each as
``12|a|b|c`` lines under the line of column letters.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ctxcomp.counting import TokenCounter
from ctxcomp.errors import BudgetError
from ctxcomp.tables.compress import compress_sheet
from ctxcomp.tables.encode import encode
from ctxcomp.tables.grid import Kind, Sheet
from ctxcomp.text.bm25 import words
from ctxcomp.types import Budget
from ctxcomp_eval.retention import bootstrap, paired_difference

KEEPS = (0.05, 0.1, 0.25)
A_SHEET = 2
"""Questions a sheet."""

Place = tuple[int, int]


@dataclass(frozen=True)
class Question:
    """What is asked of which cell; label and header are where it says so."""

    sheet: Sheet
    text: str
    cell: Place
    label: Place
    header: Place


def questions(sheet: Sheet) -> list[Question]:
    """Up to `A_SHEET` questions: numbers whose row begins with a text that no other row has, under a header."""
    cells = sheet.cells()
    kinds = dict(zip(cells, sheet.kind.tolist(), strict=True))
    first: dict[int, Place] = {}
    for place in cells:
        first.setdefault(place[0], place)
    labels = [cells[place] for place in first.values()]
    found = []
    for place, text in cells.items():
        label = first[place[0]]
        if kinds[place] != Kind.NUMBER or kinds[label] != Kind.TEXT or len(text) < 3 or labels.count(cells[label]) > 1:
            continue
        above = [r for r in range(place[0]) if (r, place[1]) in cells]
        top = next(
            (r for r in above if kinds[r, place[1]] == Kind.TEXT or 1900 <= _number(cells[r, place[1]]) <= 2100), -1
        )
        if top >= 0 and top < place[0] - 1 and len(cells[label]) > 2:
            header = (top, place[1])
            question = f"What is {cells[label]} for {cells[header]}?"
            found.append(Question(sheet, " ".join(question.split())[:400], place, label, header))
    dice = random.Random(zlib.crc32(sheet.name.encode()) + len(sheet))
    return dice.sample(found, min(A_SHEET, len(found)))


def _number(text: str) -> float:
    return float(text) if text.replace(".", "", 1).isdigit() else 0.0


def _ours(query: bool) -> Callable[[Question, int, TokenCounter], set[Place]]:
    def shown(question: Question, tokens: int, counter: TokenCounter) -> set[Place]:
        try:
            found = compress_sheet(
                question.sheet, question.text if query else "", Budget(tokens=tokens), counter=counter, aggregate=False,
                title=False,
            )  # fmt: skip
        except BudgetError:
            return set()
        if counter.count(found.text) > tokens:
            raise AssertionError("over the budget")
        return set(found.cells())

    return shown


def _truncated(question: Question, tokens: int, counter: TokenCounter) -> set[Place]:
    """The cells of the longest beginning of the plain encoding that fits."""
    sheet, n = question.sheet, len(question.sheet)
    low, high = 0, n + 1
    while high - low > 1:
        middle = (low + high) // 2
        fits = counter.count(encode(sheet.where(np.arange(n) < middle), "plain")) <= tokens
        low, high = (middle, high) if fits else (low, middle)
    return set(sheet.where(np.arange(n) < low).cells())


def _rows(order: Callable[[Question, list[int]], list[int]]) -> Callable[[Question, int, TokenCounter], set[Place]]:
    def shown(question: Question, tokens: int, counter: TokenCounter) -> set[Place]:
        sheet = question.sheet
        taken = order(question, np.unique(sheet.row).tolist())
        low, high = 0, len(taken) + 1
        while high - low > 1:
            middle = (low + high) // 2
            fits = counter.count(encode(sheet.where(np.isin(sheet.row, taken[:middle])), "rows")) <= tokens
            low, high = (middle, high) if fits else (low, middle)
        return set(sheet.where(np.isin(sheet.row, taken[:low])).cells())

    return shown


def _shuffled(question: Question, rows: list[int]) -> list[int]:
    return random.Random(zlib.crc32(question.text.encode())).sample(rows, len(rows))


def _by_bm25(question: Question, rows: list[int]) -> list[int]:
    import bm25s

    cells = question.sheet.cells()
    corpus = {row: [] for row in rows}  # type: dict[int, list[str]]
    for (row, _), text in cells.items():
        corpus[row] += words(text)
    index = bm25s.BM25(method="lucene")
    index.index([corpus[row] or ["_"] for row in rows], show_progress=False)
    known = [word for word in words(question.text) if any(word in own for own in corpus.values())]
    scores = index.get_scores(known) if known else np.zeros(len(rows))
    return [rows[i] for i in np.argsort(-np.asarray(scores), kind="stable")]


METHODS: dict[str, Callable[[Question, int, TokenCounter], set[Place]]] = {
    "sheets": _ours(query=True),
    "sheets without the question": _ours(query=False),
    "truncated plain encoding": _truncated,
    "random rows": _rows(_shuffled),
    "rows by bm25": _rows(_by_bm25),
}


def measure(sheets: list[Sheet], counter: TokenCounter) -> Iterator[dict[str, Any]]:
    """Rows of the results: each method at each keep of the plain encoding's tokens."""
    asked = [question for sheet in sheets for question in questions(sheet)]
    plain = [counter.count(encode(question.sheet, "plain")) for question in asked]
    for keep in KEEPS:
        held: dict[str, list[float]] = {}
        readable: dict[str, list[float]] = {}
        for name, method in METHODS.items():
            shown = [method(q, int(keep * n), counter) for q, n in zip(asked, plain, strict=True)]
            held[name] = [float(q.cell in places) for q, places in zip(asked, shown, strict=True)]
            readable[name] = [
                float({q.cell, q.label, q.header} <= places) for q, places in zip(asked, shown, strict=True)
            ]
        for measure_, values in (("answer held", held), ("answer readable", readable)):
            for name, own in values.items():
                mean = bootstrap(own)
                yield {"measure": f"{measure_}, keep {keep}", "set": "xlsx", "setting": name, "n": len(own),
                       "value": mean.mean, "low": mean.low, "high": mean.high}  # fmt: skip
            for name in list(values)[1:]:
                gain = paired_difference(values["sheets"], values[name])
                yield {"measure": f"{measure_}, keep {keep}", "set": "xlsx", "setting": f"sheets minus {name}",
                       "n": len(asked), "value": gain.mean, "low": gain.low, "high": gain.high}  # fmt: skip
