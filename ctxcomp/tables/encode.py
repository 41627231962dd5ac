r"""Cells to text and back: the ways to write a sheet.

`plain`   ``A1,Year|B1,Profit|\n``: row-major, the form that published figures start from. Lossless.
`rows`    ``1|Year|Profit\n``: a line a row under a line of column letters. Lossless, and short for full tables.
`index`   ``Year|A1\n0|B2:C9,F4\n``: a line a value with all its places (module 2). Lossless, and short for tables
          with holes and repeats. With labels (module 3) ``{#,##0}|C2:C40`` stands for the values there.
`bare`    ``Year|Profit\n``: `rows` without addresses, for tables whose readers have none; "…" where rows are missing.

In all of them a backslash stands before what would be read otherwise, and ``~C1`` after a value or an address says
that the cell is merged up to C1. `decode` reads them back, all but `bare`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np

from ctxcomp.errors import InputError
from ctxcomp.tables.addresses import AddressMap
from ctxcomp.tables.cover import cover
from ctxcomp.tables.grid import Ints, Range, Sheet, cell_name, column_name, parse_cell, parse_range

Layout = Literal["plain", "rows", "index", "bare"]
MOST_EMPTY = 20_000_000
"""Cells of a plain text that writes empty ones too: more would be a mistake."""

_SPECIAL = re.compile(r"[\\|~\n\r]")
_ESCAPES = {"\n": r"\n", "\r": r"\r"}
_ESCAPED = re.compile(r"\\(.)")

Cells = dict[tuple[int, int], str]


def encode(sheet: Sheet, layout: Layout, addresses: AddressMap | None = None, *, empties: bool = False) -> str:
    """The cells of a sheet as text.

    Parameters
    ----------
    addresses: what addresses to show; None for the sheet's own.
    empties: in the plain layout, write the empty cells of the used rectangle too.

    Raises
    ------
    InputError: no such layout, or more than `MOST_EMPTY` cells to write.
    """
    if layout not in get_args(Layout):
        raise InputError(f"layout must be one of {', '.join(get_args(Layout))}, got {layout!r}")
    addresses = addresses or AddressMap()
    if not len(sheet):
        return ""
    if layout == "index":
        return "\n".join(_index_lines(sheet, addresses, sheet.text, [_escaped(t, "{") for t in sheet.texts]))
    grid, spans = _grid(sheet, addresses), _spans(sheet, addresses)
    if layout == "rows":
        return "\n".join(_row_lines(grid, spans))
    if layout == "bare":
        return "\n".join(_bare_lines(grid))
    return "\n".join(_plain_lines(grid, spans, empties))


def encode_formats(sheet: Sheet, labels: Ints, names: list[str], addresses: AddressMap, *, merge: bool = True) -> str:
    """The index of a sheet in which formats and types stand for values (module 3).

    Parameters
    ----------
    labels: int64 ``[n]``, index into ``names``, -1 where the value itself is written.
    merge: write equal values once, with all their places (module 2); else a line a cell.
    """
    if not len(sheet):
        return ""
    texts = [f"{{{_escaped(name)}}}" for name in names] + [_escaped(t, "{") for t in sheet.texts]
    codes = np.where(labels >= 0, labels, len(names) + sheet.text)
    if not merge:
        alone = labels < 0
        own = np.flatnonzero(alone)
        texts += [texts[i] for i in codes[own].tolist()]
        codes[own] = len(texts) - len(own) + np.arange(len(own))
    return "\n".join(_index_lines(sheet, addresses, codes, texts))


def decode(text: str, layout: Layout) -> Cells:
    """The cells that a text shows, by (row, column) as shown; merged areas give their value at the upper left.

    Raises
    ------
    InputError: the layout is not one of plain, rows and index.
    """
    if layout not in ("plain", "rows", "index"):
        raise InputError(f"decode() reads the layouts plain, rows and index, got {layout!r}")
    if not text:
        return {}
    lines = text.split("\n")
    if layout == "rows":
        return _from_rows(lines)
    return dict(_from_plain(lines) if layout == "plain" else _from_index(lines))


def merged_spans(sheet: Sheet) -> dict[tuple[int, int], Range]:
    """The merged areas whose upper left cell holds something, by that cell."""
    if not sheet.merges:
        return {}
    present = set(zip(sheet.row.tolist(), sheet.col.tolist(), strict=True))
    return {area[:2]: area for area in sheet.merges if area[:2] in present and area[:2] != area[2:]}


def _spans(sheet: Sheet, addresses: AddressMap) -> dict[tuple[int, int], str]:
    """What follows a merged cell, by its shown place: the corner, cut to what is shown."""
    marks = {}
    for (top, left), area in merged_spans(sheet).items():
        bottom, right = area.bottom, area.right
        if addresses.rows is not None and addresses.cols is not None:
            bottom = int(np.searchsorted(addresses.rows, bottom, side="right")) - 1
            right = int(np.searchsorted(addresses.cols, right, side="right")) - 1
            top, left = int(np.searchsorted(addresses.rows, top)), int(np.searchsorted(addresses.cols, left))
        if (bottom, right) != (top, left):
            marks[top, left] = f"~{cell_name(bottom, right)}"
    return marks


def _grid(sheet: Sheet, addresses: AddressMap) -> dict[int, dict[int, str]]:
    """Escaped texts by shown row, then shown column."""
    escaped = [_escaped(text) for text in sheet.texts]
    rows, cols = addresses.shown_rows(sheet.row).tolist(), addresses.shown_cols(sheet.col).tolist()
    grid: dict[int, dict[int, str]] = defaultdict(dict)
    for row, col, i in zip(rows, cols, sheet.text.tolist(), strict=True):
        grid[row][col] = escaped[i]
    return grid


def _plain_lines(grid: dict[int, dict[int, str]], spans: dict[tuple[int, int], str], empties: bool) -> Iterator[str]:
    if not empties:
        for row, cells in grid.items():
            yield "".join(f"{cell_name(row, col)}{spans.get((row, col), '')},{text}|" for col, text in cells.items())
        return
    left, right = min(min(cells) for cells in grid.values()), max(max(cells) for cells in grid.values())
    top, bottom = min(grid), max(grid)
    if (area := (bottom - top + 1) * (right - left + 1)) > MOST_EMPTY:
        raise InputError(f"the used rectangle has {area} cells, mostly empty: encode it with empties=False")
    letters = [column_name(col) for col in range(left, right + 1)]
    for row in range(top, bottom + 1):
        cells = grid.get(row, {})
        yield "".join(
            f"{letter}{row + 1}{spans.get((row, col), '')},{cells.get(col, '')}|"
            for col, letter in enumerate(letters, left)
        )


def _row_lines(grid: dict[int, dict[int, str]], spans: dict[tuple[int, int], str]) -> Iterator[str]:
    """The letters of the columns that hold something, then a line a row, without empty cells at its end."""
    cols = sorted(set().union(*grid.values()))
    yield "|".join(["", *(column_name(col) for col in cols)])
    for row, cells in grid.items():
        texts = [cells[col] + spans.get((row, col), "") if col in cells else "" for col in cols]
        while not texts[-1]:
            texts.pop()
        yield "|".join([str(row + 1), *texts])


def _bare_lines(grid: dict[int, dict[int, str]]) -> Iterator[str]:
    cols = sorted(set().union(*grid.values()))
    expected = min(grid)
    for row, cells in grid.items():
        if row > expected:
            yield "…"
        expected = row + 1
        yield "|".join(cells.get(col, "") for col in cols)


def _index_lines(sheet: Sheet, addresses: AddressMap, codes: Ints, texts: list[str]) -> Iterator[str]:
    """A line for each code with all places of its cells, in the order in which the codes first occur."""
    row, col = addresses.shown_rows(sheet.row), addresses.shown_cols(sheet.col)
    _, first, label = np.unique(codes, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    ordered = codes[np.sort(first)]
    places: list[list[str]] = [[] for _ in ordered]
    spans = _spans(sheet, addresses)
    # A merged cell is written apart: its address says how far it goes.
    apart = np.array([(r, c) in spans for r, c in zip(row.tolist(), col.tolist(), strict=True)], bool)
    alone = apart if spans else np.zeros(len(row), bool)
    label = rank[label]
    for i in np.flatnonzero(alone).tolist():
        r, c = int(row[i]), int(col[i])
        places[label[i]].append(cell_name(r, c) + spans[r, c])
    found = cover(row[~alone], col[~alone], label[~alone])
    columns = (found.label, found.top, found.left, found.bottom, found.right)
    for i, *corners in zip(*(column.tolist() for column in columns), strict=True):
        places[i].append(str(Range(*corners)))
    for code, own in zip(ordered.tolist(), places, strict=True):
        yield f"{texts[code]}|{','.join(own)}"


def _escaped(text: str, first: str = "") -> str:
    """With a backslash before what separates, and before a first character that means something."""
    if _SPECIAL.search(text):
        text = _SPECIAL.sub(lambda found: _ESCAPES.get(found[0], "\\" + found[0]), text)
    return "\\" + text if first and text.startswith(first) else text


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda found: {"n": "\n", "r": "\r"}.get(found[1], found[1]), text) if "\\" in text else text


def _split(line: str, sign: str) -> list[str]:
    if "\\" not in line:
        return line.split(sign)
    parts, start, i = [], 0, 0
    while i < len(line):
        if line[i] == "\\":
            i += 1
        elif line[i] == sign:
            parts.append(line[start:i])
            start = i + 1
        i += 1
    return [*parts, line[start:]]


def _value(field: str) -> str:
    """A cell's text without the mark of a merged area."""
    return _unescaped(_split(field, "~")[0])


def _from_rows(lines: list[str]) -> Cells:
    cols = [parse_cell(f"{letters}1")[1] for letters in lines[0].split("|")[1:]]
    cells: Cells = {}
    for line in lines[1:]:
        number, *fields = _split(line, "|")
        for col, field in zip(cols, fields, strict=False):
            if field:
                cells[int(number) - 1, col] = _value(field)
    return cells


def _from_plain(lines: list[str]) -> Iterator[tuple[tuple[int, int], str]]:
    for line in lines:
        for field in _split(line, "|")[:-1]:
            address, _, text = field.partition(",")
            if text:
                yield parse_cell(address.partition("~")[0]), _unescaped(text)


def _from_index(lines: list[str]) -> Iterator[tuple[tuple[int, int], str]]:
    for line in lines:
        text, _, addresses = line.rpartition("|")
        value = _unescaped(text)
        for address in addresses.split(","):
            area = parse_range(address.partition("~")[0])
            for row in range(area.top, area.bottom + 1):
                for col in range(area.left, area.right + 1):
                    yield (row, col), value
