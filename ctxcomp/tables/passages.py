"""Tables in text: Markdown, HTML and CSV, each as a sheet at its place between the prose."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from html.parser import HTMLParser

from ctxcomp.blocks import Kind as Block
from ctxcomp.blocks import blocks
from ctxcomp.errors import InputError
from ctxcomp.tables.datatypes import infer_kind
from ctxcomp.tables.grid import Range, Sheet, SheetBuilder
from ctxcomp.tables.readers import DELIMITERS, add_row, parse_delimited
from ctxcomp.types import Passage

_TABLE_TAG = re.compile(r"<(/?)table\b[^>]*>", re.IGNORECASE)
_RULE = re.compile(r"[\s|:+-]*-[\s|:+-]*")
_BAR = re.compile(r"(?<!\\)\|")
MAX_SPAN, MAX_ROWSPAN = 1_000, 100
"""Columns or rows that an HTML cell may span, and rows that it pushes the cells of."""
MAX_FIELD = 80
"""Characters of an average field: longer ones are prose with commas."""


@dataclass(frozen=True, eq=False)
class Segment:
    """A part of a passage: prose, or a table.

    Parameters
    ----------
    start, end: characters of the passage.
    sheet: the table; None for prose.
    addressed: its reader knows addresses, since it is from a workbook or a file.
    """

    start: int
    end: int
    sheet: Sheet | None = None
    addressed: bool = False


def segments(passage: Passage) -> list[Segment]:
    """The tables of a passage and the prose around them, in order; all prose for a passage without tables.

    ``metadata["sheet"]`` of a passage is taken as what its text shows.
    """
    text = passage.text
    sheet = passage.metadata.get("sheet")
    if isinstance(sheet, Sheet):
        return [Segment(0, len(text), sheet, addressed=True)]
    whole = _csv(text)
    tables = [Segment(0, len(text), whole)] if whole is not None else _tables(text)
    edges = [0, *(edge for table in tables for edge in (table.start, table.end)), len(text)]
    prose = [Segment(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if text[a:b].strip()]
    return sorted([*tables, *prose], key=lambda part: part.start)


def _tables(text: str) -> list[Segment]:
    found = []
    html = _html_places(text)
    for start, end in html:
        if (sheet := _html(text[start:end])) is not None:
            found.append(Segment(start, end, sheet))
    if "|" in text:
        for block in blocks(text):
            apart = all(block.end <= a or b <= block.start for a, b in html)
            if block.kind is Block.TABLE and apart and (sheet := _markdown(text[block.start : block.end])) is not None:
                found.append(Segment(block.start, block.end, sheet))
    return sorted(found, key=lambda part: part.start)


def _markdown(text: str) -> Sheet | None:
    builder = SheetBuilder()
    lines = [line for line in text.splitlines() if not _RULE.fullmatch(line)]
    for row, line in enumerate(lines):
        fields = _BAR.split(line.strip().removeprefix("|").removesuffix("|"))
        add_row(builder, row, [field.replace("\\|", "|") for field in fields])
    return _worth_it(builder.build())


def _csv(text: str) -> Sheet | None:
    """The whole text as a table, if its lines all have the same number of short fields."""
    lines = [line for line in text.removeprefix("\ufeff").splitlines() if line.strip()]
    if len(lines) < 3 or _RULE.fullmatch(lines[1]) or lines[0].lstrip().startswith(("|", "<", "{", "[")):
        return None
    for sign in DELIMITERS:
        if sign not in lines[0] or (sign == "," and text.count(", ") * 3 > text.count(",")):
            continue
        try:
            counts = [len(fields) for fields in csv.reader(lines, delimiter=sign, strict=True)]
            if len(counts) >= 3 and len(set(counts)) == 1 and len(text) <= MAX_FIELD * sum(counts):
                return _worth_it(parse_delimited(text, delimiter=sign))
        except (csv.Error, InputError):  # it is something else
            continue
    return None


def _worth_it(sheet: Sheet) -> Sheet | None:
    """The sheet, if it is more than one row and more than one column."""
    used = sheet.used
    return sheet if used is not None and used.bottom > used.top and used.right > used.left else None


def _html_places(text: str) -> list[tuple[int, int]]:
    """Where the outermost tables stand."""
    places, depth, start = [], 0, 0
    for tag in _TABLE_TAG.finditer(text):
        if not tag[1]:
            start = tag.start() if not depth else start
            depth += 1
        elif depth:
            depth -= 1
            if not depth:
                places.append((start, tag.end()))
    return places


def _html(text: str) -> Sheet | None:
    parser = _TableParser()
    parser.feed(text)
    parser.close()
    return _worth_it(parser.sheet())


class _TableParser(HTMLParser):
    """Collects the cells of a table; what is in a nested table belongs to the cell around it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.cells: dict[tuple[int, int], str] = {}
        self.taken: set[tuple[int, int]] = set()
        self.merges: list[Range] = []
        self.row, self.col, self.depth = -1, 0, 0
        self.words: list[str] | None = None
        self.span = (1, 1)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Rows and cells of the outermost table."""
        self.depth += tag == "table"
        if self.depth > 1:
            return
        if tag == "tr":
            self._finish()
            self.row, self.col = self.row + 1, 0
        elif tag in ("td", "th"):
            self._finish()
            self.row = max(self.row, 0)
            given = dict(attrs)
            self.span = _span(given.get("rowspan")), _span(given.get("colspan"))
            self.words = []
        elif tag in ("br", "p", "div", "li") and self.words is not None:
            self.words.append(" ")

    def handle_endtag(self, tag: str) -> None:
        """The end of a cell or of the table."""
        if tag == "table":
            self.depth -= 1
        if self.depth <= 1 and tag in ("td", "th", "tr", "table"):
            self._finish()

    def handle_data(self, data: str) -> None:
        """Text of a cell."""
        if self.words is not None:
            self.words.append(data)

    def _finish(self) -> None:
        if self.words is None:
            return
        while (self.row, self.col) in self.taken:
            self.col += 1
        high, wide = self.span
        if (high, wide) != (1, 1):
            area = Range(self.row, self.col, self.row + high - 1, self.col + wide - 1)
            self.merges.append(area)
            if high > 1:
                below = range(self.row + 1, min(area.bottom, self.row + MAX_ROWSPAN) + 1)
                self.taken |= {(r, c) for r in below for c in range(self.col, area.right + 1)}
        self.cells[self.row, self.col] = " ".join("".join(self.words).split())
        self.col += wide
        self.words = None

    def sheet(self) -> Sheet:
        """What was collected."""
        builder = SheetBuilder()
        for (row, col), text in self.cells.items():
            builder.add(row, col, text, infer_kind(text))
        return builder.build(self.merges)


def _span(given: str | None) -> int:
    return min(max(int(given), 1), MAX_SPAN) if given and given.isascii() and given.isdigit() else 1
