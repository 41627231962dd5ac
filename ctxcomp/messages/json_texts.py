"""Texts inside JSON: which strings of an array of objects hold passages, and exactly where they stand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

TEXT_KEYS = frozenset(
    "page_content pagecontent content contents text body passage chunk snippet excerpt document raw_content "
    "chunk_text passage_text extract".split()
)
NAME_KEYS = frozenset(
    "title source url uri link id doc_id document_id docid score metadata file filename file_name path page author "
    "date published similarity distance relevance rank _id _score _source".split()
)
TITLE_KEYS = ("title", "name", "heading", "filename", "file_name")
ID_KEYS = ("id", "doc_id", "document_id", "docid", "_id", "source", "url", "uri", "link", "index", "path")
CONVERSATION_KEYS = frozenset("role sender speaker tool_calls function arguments messages".split())
"""Objects with one of these are messages or calls, which are never cut."""

_OPENING = re.compile(r"\[(?=\s{0,200}\{)|\{(?=\s{0,200}\")")
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},:]|[^\s\[\]{},:"]+', re.S)
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# Numbers are of no interest, and one of more than 4,300 digits would raise.
_DECODER = json.JSONDecoder(parse_int=lambda digits: 0, parse_float=lambda digits: 0.0)
_STRINGS = json.JSONDecoder(strict=False)


@dataclass(slots=True)
class Row:
    """One object of an array.

    Parameters
    ----------
    start, end: the object, in characters.
    strings: its strings by key, each with the object it stands in (0 is the row itself) and where it stands, without
        the quotes.
    """

    start: int
    end: int = -1
    strings: list[tuple[str, int, int, int]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    items: int = 0


def decoded(text: str, start: int, end: int) -> str:
    """The string whose literal stands there."""
    literal = text[start:end]
    return literal if "\\" not in literal else str(_STRINGS.decode(f'"{literal}"'))


def encoded(value: str, like: str) -> str:
    """The literal of a string, without quotes; escaped beyond ASCII if ``like``, the literal it replaces, was."""
    ascii_only = like.isascii() and not value.isascii()
    literal = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
    return literal if ascii_only else _SURROGATE.sub(lambda m: f"\\u{ord(m[0]):04x}", literal)


def values(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where JSON arrays and objects stand in ``text[start:end]``: the outermost ones, from left to right."""
    at = start
    # A failed parse reads to its error; the allowance keeps many unclosed brackets from costing n * n.
    allowance = 4 * (end - start) + 1000
    while allowance > 0 and (found := _OPENING.search(text, at, end)):
        at = found.start()
        try:
            _, stop = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            allowance -= error.pos - at + error.pos // 50 + 1
            at += 1
            continue
        except RecursionError:
            return
        if stop <= end:
            yield at, stop
        at = max(stop, at + 1)


def rows_of(text: str, start: int, end: int) -> list[list[Row]]:
    """The arrays of objects in the JSON value ``text[start:end]`` that hold passages, the outermost ones."""
    return _Reader(text, start, end).run()


def row_of(text: str, start: int, end: int) -> Row | None:
    """The JSON object ``text[start:end]`` if a text of its own is a passage."""
    reader = _Reader(text, start, end)
    row = reader.top = Row(start, end)
    reader.run()
    return row if text[start] == "{" and _is_passage(row) else None


def texts_of_row(text: str, row: Row) -> list[tuple[int, int]]:
    """Where the passages of an object stand: its longest kind of text, or all of its texts that are long."""
    found = [(a, b) for key, _, a, b in row.strings if key in TEXT_KEYS]
    long = [(a, b) for a, b in found if b - a >= 80]
    return long or found[:1]


def name_of_row(text: str, row: Row) -> tuple[str, str | None]:
    """The id and the title of an object."""
    named: dict[str, str] = {}
    for key, _, a, b in row.strings:
        if key not in named and b - a <= 300:
            named[key] = decoded(text, a, b)
    title = next((named[key] for key in TITLE_KEYS if named.get(key)), None)
    return next((named[key] for key in ID_KEYS if named.get(key)), ""), title


def has_names(rows: list[Row]) -> bool:
    """Whether the objects say where they come from, as retrieved ones do."""
    return all(row.keys & NAME_KEYS or row.keys & {"page_content", "pagecontent"} for row in rows)


def _is_passage(row: Row) -> bool:
    return not row.keys & CONVERSATION_KEYS and any(key in TEXT_KEYS for key, *_ in row.strings)


class _Reader:
    """One pass over the tokens of a valid JSON value."""

    def __init__(self, text: str, start: int, end: int) -> None:
        self.text, self.start, self.end = text, start, end
        self.stack: list[tuple[str, list[Row] | None]] = []  # bracket, and the rows if it is an array
        self.rows: list[tuple[int, Row]] = []  # depth at which the open objects of arrays opened
        self.found: list[tuple[int, int, list[Row]]] = []
        self.top = Row(start)

    def run(self) -> list[list[Row]]:
        """All arrays that hold objects and nothing else, without those inside one that holds passages."""
        key: Any = None
        previous = None
        for token in _TOKEN.finditer(self.text, self.start, self.end):
            kind = self.text[token.start()]
            if kind in "[{":
                self._open(kind, token.start())
                key = None if kind == "{" else key
            elif kind in "]}":
                self._close(token.end())
            elif kind == ":":
                key = previous
                if isinstance(key, str):
                    (self.rows[-1][1] if self.rows else self.top).keys.add(key)
            elif kind == '"':
                previous = self.text[token.start() + 1 : token.end() - 1][:40].lower()
                if self._is_value(token.end()):
                    self._string(key, token.start() + 1, token.end() - 1)
            elif kind != ",":
                self._plain()
        return self._outermost()

    def _is_value(self, at: int) -> bool:
        after = self.text[at : at + 200].lstrip()[:1]
        return after != ":"

    def _open(self, bracket: str, at: int) -> None:
        if bracket == "{" and self.stack and self.stack[-1][1] is not None:
            row = Row(at)
            self.stack[-1][1].append(row)
            self.rows.append((len(self.stack), row))
        elif self.stack and self.stack[-1][0] == "[":
            self._plain()
        self.stack.append((bracket, [] if bracket == "[" else None))

    def _close(self, end: int) -> None:
        bracket, rows = self.stack.pop()
        if bracket == "{" and self.rows and self.rows[-1][0] == len(self.stack):
            self.rows.pop()[1].end = end
        elif rows:
            self.found.append((rows[0].start, end, rows))

    def _plain(self) -> None:
        """An array that holds something else than objects is none of ours."""
        if self.stack and self.stack[-1][0] == "[":
            self.stack[-1] = ("[", None)

    def _string(self, key: Any, a: int, b: int) -> None:
        if self.stack and self.stack[-1][0] == "[":
            self._plain()
            return
        if len(self.stack) == 1:
            self.top.strings.append((str(key), 1, a, b))
        for _, row in self.rows[-2:]:
            row.strings.append((str(key), len(self.stack), a, b))

    def _outermost(self) -> list[list[Row]]:
        chosen: list[list[Row]] = []
        until = -1
        for start, end, rows in sorted(self.found, key=lambda f: (f[0], -f[1])):
            if start >= until and all(_is_passage(row) for row in rows):
                chosen.append(rows)
                until = end
        return chosen
