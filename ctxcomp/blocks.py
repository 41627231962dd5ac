"""Blocks of a text: paragraphs, and the Markdown and JSON structures that must not be read as prose.

One pass over the lines. A blank line ends any block but fenced code and multi-line JSON. The rules are CommonMark's
where they are cheap; they differ in that a fence may be indented at will, an item ends at a blank line, and a
setext heading underlines one line only (in retrieved text, a rule below a longer paragraph is a separator).
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

# What str.isspace() knows, plus the zero-width space (a word separator in Khmer and Thai text) and the BOM. Not here,
# because they belong to words: ZWJ, ZWNJ, word joiner, soft hyphen, bidirectional marks, NUL.
GAP = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\u200b\ufeff"
)

_START = re.compile(
    r"(?P<fence>`{3,}+[^`]*+$|~{3,}+)"
    r"|(?P<heading>\#{1,6}+(?=\s|$))"
    r"|(?P<rule>(?:=+|-{2,}+|(?:[-*_][ \t]*+){3,}+)$)"
    r"|(?P<bullet>[-*+•◦▪‣·][ \t]+\S)"
    r"|(?P<number>\(?(?:[0-9]{1,3}|[a-zA-Z]|[ivx]{2,5})\)[ \t]+\S|[0-9]{1,3}\.[ \t]+\S)"
    r"|(?P<json>(?:\{(?=\s*+[\"}]|\s*+$)|\[(?=\s*+[\[{\"\]tfn0-9-]|\s*+$)).*[{}\[\],;]$|[\[{]$)"
)
_FIRST_NUMBER = re.compile(r"\(?(?:1|a|A|i)[.)]")
_DECODER = json.JSONDecoder(parse_int=lambda digits: 0, parse_float=lambda digits: 0.0)
JSON_DEPTH = 200
"""JSON nested deeper is read as text: how deep the decoder itself goes depends on who set the recursion limit."""


class Kind(enum.IntEnum):
    """What a unit is."""

    TEXT = 0
    CODE = 1
    TABLE = 2
    LIST_ITEM = 3
    HEADING = 4
    URL = 5
    JSON = 6


class Block(NamedTuple):
    """``text[start:end]``, without white space at either end."""

    start: int
    end: int
    kind: Kind


def rows(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The lines of ``text[start:end]`` that are not blank, without the white space around them."""
    return [(a, b) for a, b in _lines(text[start:end], start) if b > a]


def blocks(text: str) -> list[Block]:
    """Cut a text into blocks, in order; every character outside of them is in ``GAP``."""
    return _Scanner(text).run()


def _lines(text: str, offset: int = 0) -> list[tuple[int, int]]:
    spans = []
    for line in text.splitlines(keepends=True):
        body = line.strip(GAP)
        start = offset + (len(line) - len(line.lstrip(GAP)) if body else 0)
        spans.append((start, start + len(body)))
        offset += len(line)
    return spans


class _Scanner:
    """The state of the one pass: the lines, the finished blocks and the block that may still grow."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = _lines(text)
        self.done: list[Block] = []
        self.open: Block | None = None
        self.open_lines = 0
        # A failed parse reads to its error, and the decoder counts the lines before it, fifty times as fast. The
        # allowance keeps many unclosed brackets from costing n * n.
        self.json_allowance = 4 * len(text) + 1000

    def run(self) -> list[Block]:
        i = 0
        while i < len(self.lines):
            start, end = self.lines[i]
            if start == end:
                self.close()
                i += 1
                continue
            used = self.structure(i)
            if not used:
                self.grow(start, end)
            i += used or 1
        self.close()
        return self.done

    def close(self) -> None:
        if self.open is not None:
            self.done.append(self.open)
            self.open = None

    def grow(self, start: int, end: int) -> None:
        if self.open is None:
            self.begin(start, end, Kind.TEXT)
        else:
            self.open = self.open._replace(end=end)
            self.open_lines += 1

    def begin(self, start: int, end: int, kind: Kind) -> None:
        self.close()
        self.open, self.open_lines = Block(start, end, kind), 1

    def emit(self, first: int, last: int, kind: Kind) -> int:
        """Finish the lines `first` to `last` as one block; the number of lines used."""
        self.close()
        self.done.append(Block(self.lines[first][0], self.lines[last][1], kind))
        return last - first + 1

    def structure(self, i: int) -> int:
        """How many lines from line `i` on are a structure; 0 where the line is prose."""
        start, end = self.lines[i]
        line = self.text[start:end]
        last = self.table_end(i, line)
        if last > i:
            return self.emit(i, last, Kind.TABLE)
        found = _START.match(line)
        match found.lastgroup if found else None:
            case "fence":
                return self.emit(i, self.fence_end(i, line), Kind.CODE)
            case "heading":
                return self.emit(i, i, Kind.HEADING)
            case "rule":
                return self.rule(i, line)
            case "json":
                return self.json(i)
            case "bullet":
                self.begin(start, end, Kind.LIST_ITEM)
                return 1
            case "number" if self.may_number(line):
                self.begin(start, end, Kind.LIST_ITEM)
                return 1
        return 0

    def may_number(self, line: str) -> bool:
        """Inside a paragraph "1986." may be a wrapped line: only the first number starts a list there."""
        return self.open is None or self.open.kind is Kind.LIST_ITEM or bool(_FIRST_NUMBER.match(line))

    def rule(self, i: int, line: str) -> int:
        under = self.open is not None and self.open.kind is Kind.TEXT and self.open_lines == 1
        if under and line[0] in "=-" and " " not in line and self.open is not None:
            self.done.append(Block(self.open.start, self.lines[i][1], Kind.HEADING))
            self.open = None
            return 1
        return 0 if line[0] == "=" else self.emit(i, i, Kind.TEXT)

    def fence_end(self, i: int, line: str) -> int:
        """The line that closes the fence, else the last line that is not blank."""
        mark = line[0]
        width = len(line) - len(line.lstrip(mark))
        last = i
        for j in range(i + 1, len(self.lines)):
            start, end = self.lines[j]
            if end > start:
                last = j
                if end - start >= width and not self.text[start:end].strip(mark):
                    return j
        return last

    def table_end(self, i: int, line: str) -> int:
        """The last line of the table that starts at line `i`; `i` itself where none does."""
        if "|" not in line or i + 1 == len(self.lines):
            return i
        start, end = self.lines[i + 1]
        second = self.text[start:end]
        ruled = "|" in second and "-" in second and not second.strip("|-: \t")
        boxed = line[0] == line[-1] == "|" and second[:1] == second[-1:] == "|" and len(line) > 1
        if not (ruled or boxed):
            return i
        j = i + 1
        while j + 1 < len(self.lines) and "|" in self.text[slice(*self.lines[j + 1])]:
            j += 1
        return j

    def json(self, i: int) -> int:
        """Lines of the JSON value that starts at line `i`; 0 where there is none. A list of numbers is a citation."""
        start = self.lines[i][0]
        if self.json_allowance <= 0:
            return 0
        try:
            value, stop = _DECODER.raw_decode(self.text, start)
        except json.JSONDecodeError as error:
            self.json_allowance -= error.pos - start + error.pos // 50
            return 0
        except RecursionError:
            self.json_allowance = 0
            return 0
        if self.text.count("[", start, stop) + self.text.count("{", start, stop) > JSON_DEPTH and _is_deep(value):
            self.json_allowance = 0
            return 0
        self.json_allowance -= stop - start
        last = i
        while self.lines[last][1] < stop:
            last += 1
        ends_line = self.text[stop : self.lines[last][1]].strip(GAP) in ("", ",", ";")
        if not ends_line or (isinstance(value, list) and all(item in (0, 0.0) for item in value)):
            return 0
        return self.emit(i, last, Kind.JSON)


def _is_deep(value: Any) -> bool:
    level, depth = [value], 0
    while level and depth <= JSON_DEPTH:
        level = [child for one in level for child in _children(one)]
        depth += 1
    return depth > JSON_DEPTH


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
