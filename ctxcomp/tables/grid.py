"""A sheet as parallel arrays of its cells that are not empty, and addresses in A1 notation."""

from __future__ import annotations

import enum
import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctxcomp.errors import InputError

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

_ADDRESS = re.compile(r"\$?([A-Za-z]{1,7})\$?([1-9][0-9]{0,8})")


class Kind(enum.IntEnum):
    """What a cell holds. A formula is a cell of this kind only where its value is not known."""

    TEXT = 0
    NUMBER = 1
    DATE = 2
    BOOL = 3
    ERROR = 4
    FORMULA = 5


class Range(NamedTuple):
    """A rectangle of cells: zero-based, both ends included."""

    top: int
    left: int
    bottom: int
    right: int

    def __str__(self) -> str:
        first = cell_name(self.top, self.left)
        return first if self[:2] == self[2:] else f"{first}:{cell_name(self.bottom, self.right)}"


@dataclass(frozen=True, eq=False)
class Sheet:
    """One sheet: its cells that are not empty, in row-major order.

    Parameters
    ----------
    row, col: int64 ``[n]``, zero-based.
    text: int64 ``[n]``, index into ``texts``: what the cell shows.
    kind: int8 ``[n]``, values of `Kind`.
    format: int64 ``[n]``, index into ``formats``: the number format string, "" or "General" for none.
    style: int64 ``[n]``: equal numbers look alike (font, fill, border); the numbers mean nothing else.
    merges: merged areas; the value is in the upper left cell.
    hidden: the workbook does not show this sheet.
    formulas: some texts are formulas, whose addresses are the sheet's own.
    """

    name: str
    row: Ints
    col: Ints
    text: Ints
    texts: Sequence[str]
    kind: NDArray[np.int8]
    format: Ints
    formats: Sequence[str]
    style: Ints
    merges: tuple[Range, ...] = ()
    hidden: bool = False
    formulas: bool = False

    def __len__(self) -> int:
        return len(self.row)

    @property
    def used(self) -> Range | None:
        """The smallest rectangle around all cells; None for an empty sheet."""
        if not len(self):
            return None
        return Range(int(self.row[0]), int(self.col.min()), int(self.row[-1]), int(self.col.max()))

    def cells(self) -> dict[tuple[int, int], str]:
        """The text of each cell by (row, column)."""
        texts = (self.texts[i] for i in self.text.tolist())
        return dict(zip(zip(self.row.tolist(), self.col.tolist(), strict=True), texts, strict=True))

    def where(self, kept: Mask) -> Sheet:
        """The cells that are kept, bool ``[n]``, at their own addresses."""
        row, col, text, format_, style = (c[kept] for c in (self.row, self.col, self.text, self.format, self.style))
        return replace(self, row=row, col=col, text=text, kind=self.kind[kept], format=format_, style=style)

    def within(self, area: Range) -> Sheet:
        """The cells inside a rectangle."""
        first, stop = np.searchsorted(self.row, [area.top, area.bottom + 1])
        inside = np.zeros(len(self), bool)
        inside[first:stop] = (self.col[first:stop] >= area.left) & (self.col[first:stop] <= area.right)
        return self.where(inside)


@dataclass
class SheetBuilder:
    """Collects cells in any order; equal texts and formats are stored once.

    Parameters
    ----------
    name: of the sheet.
    """

    name: str = ""
    _rows: array[int] = field(default_factory=lambda: array("q"))
    _columns: array[int] = field(default_factory=lambda: array("q"))
    _texts: dict[str, int] = field(default_factory=dict)
    _text: array[int] = field(default_factory=lambda: array("q"))
    _kind: array[int] = field(default_factory=lambda: array("b"))
    _formats: dict[str, int] = field(default_factory=lambda: {"": 0})
    _format: array[int] = field(default_factory=lambda: array("q"))
    _style: array[int] = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: int, col: int, text: str, kind: Kind, format_: str = "", style: int = 0) -> None:
        """Put a cell; white space around its text is no part of it, and an empty text is no cell."""
        text = text.strip()
        if not text:
            return
        self._rows.append(row)
        self._columns.append(col)
        self._text.append(self._texts.setdefault(text, len(self._texts)))
        self._kind.append(kind)
        self._format.append(self._formats.setdefault(format_, len(self._formats)))
        self._style.append(style)

    def build(self, merges: Iterable[Range] = (), *, hidden: bool = False, formulas: bool = False) -> Sheet:
        """The sheet.

        Raises
        ------
        InputError: a cell was put twice.
        """
        row, col = np.array(self._rows, np.int64), np.array(self._columns, np.int64)
        order = np.lexsort((col, row))
        row, col = row[order], col[order]
        if len(row) and ((np.diff(row) == 0) & (np.diff(col) == 0)).any():
            raise InputError(f"sheet {self.name!r:.80} names a cell twice: the file is damaged")
        columns = (np.array(c, np.int64)[order] for c in (self._text, self._format, self._style))
        text, format_, style = columns
        kind = np.array(self._kind, np.int8)[order]
        merged = tuple(sorted(set(merges)))
        return Sheet(
            self.name, row, col, text, list(self._texts), kind, format_, list(self._formats), style, merged, hidden,
            formulas,
        )  # fmt: skip


def column_name(col: int) -> str:
    """``27`` -> ``"AB"``."""
    name = ""
    col += 1
    while col:
        col, letter = divmod(col - 1, 26)
        name = chr(65 + letter) + name
    return name


def cell_name(row: int, col: int) -> str:
    """``(1, 27)`` -> ``"AB2"``."""
    return f"{column_name(col)}{row + 1}"


def parse_cell(address: str) -> tuple[int, int]:
    """``"AB2"`` -> ``(1, 27)``; dollar signs and lower case are fine.

    Raises
    ------
    InputError: it is no address.
    """
    found = _ADDRESS.fullmatch(address.strip()) if isinstance(address, str) else None
    if found is None:
        raise InputError(f"{address!r:.80} is no cell address: write a column and a row, such as B7")
    col = 0
    for letter in found[1].upper():
        col = col * 26 + ord(letter) - 64
    return int(found[2]) - 1, col - 1


def parse_range(address: str) -> Range:
    """``"B2:C9"`` -> its rectangle; a single cell is a range of one, and corners may come in any order.

    Raises
    ------
    InputError: it is no address.
    """
    if not isinstance(address, str):
        raise InputError(f"an address is a str such as B2:C9, got {type(address).__name__}")
    first, colon, last = address.partition(":")
    (a, b), (c, d) = parse_cell(first), parse_cell(last if colon else first)
    return Range(min(a, c), min(b, d), max(a, c), max(b, d))
