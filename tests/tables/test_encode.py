"""Sheets as text and back: lossless, exact, every address the cell's own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sheet_helpers import grids, places, sheet_of

from ctxcomp import InputError
from ctxcomp.tables.addresses import AddressMap
from ctxcomp.tables.cover import cover
from ctxcomp.tables.datatypes import TYPES, data_type, labels
from ctxcomp.tables.encode import decode, encode
from ctxcomp.tables.grid import Kind, Range, SheetBuilder, cell_name, parse_cell, parse_range


@given(grids, st.lists(st.tuples(places, places), max_size=3), st.sampled_from(["plain", "rows", "index"]))
def test_every_layout_is_read_back(cells, corners, layout):
    merges = [Range(min(a, c), min(b, d), max(a, c), max(b, d)) for (a, b), (c, d) in corners]
    sheet = sheet_of(cells, merges)
    assert sheet.cells() == cells
    assert decode(encode(sheet, layout), layout) == cells
    shown = AddressMap(np.unique(sheet.row), np.unique(sheet.col))
    back = {
        parse_cell(shown.source(cell_name(*place))): text
        for place, text in decode(encode(sheet, layout, shown), layout).items()
    }
    assert back == cells
    for place in cells:
        assert shown.source(shown.shown(cell_name(*place))) == cell_name(*place)


@given(grids)
def test_empty_cells_can_be_written_too(cells):
    text = encode(sheet_of(cells), "plain", empties=True)
    assert decode(text, "plain") == cells
    if cells:
        rows, cols = zip(*cells, strict=True)
        assert text.count("\n") == max(rows) - min(rows)
        unescaped = text.replace("\\\\", "").replace("\\|", "")
        assert unescaped.count("|") == (max(rows) - min(rows) + 1) * (max(cols) - min(cols) + 1)


@given(st.dictionaries(places, st.integers(0, 3)))
def test_rectangles_hold_exactly_the_cells_of_their_label(cells):
    row, col = (np.array([place[i] for place in cells], np.int64) for i in (0, 1))
    found = cover(row, col, np.array(list(cells.values()), np.int64))
    covered = [
        ((r, c), label)
        for label, top, left, bottom, right in zip(
            *(getattr(found, n).tolist() for n in ("label", "top", "left", "bottom", "right")), strict=True
        )
        for r, c in itertools.product(range(top, bottom + 1), range(left, right + 1))
    ]
    assert len(covered) == len(cells)
    assert dict(covered) == cells


def test_rectangles_are_few_and_never_a_bounding_box():
    ring = [(r, c) for r in range(4) for c in range(4) if (r, c) != (1, 1)]
    row, col = (np.array(x, np.int64) for x in zip(*ring, strict=True))
    found = cover(row, col, np.zeros(15, np.int64))
    assert len(found) <= 4
    full = np.indices((30, 20)).reshape(2, -1)
    assert len(cover(full[0], full[1], np.zeros(600, np.int64))) == 1
    # 100,000 cells in one region: a recursive flood fill dies here.
    big = np.indices((1000, 100)).reshape(2, -1)
    assert len(cover(big[0], big[1], np.zeros(100_000, np.int64))) == 1


@given(st.integers(0, 2_000_000), st.integers(0, 100_000))
def test_addresses_are_read_back(row, col):
    assert parse_cell(cell_name(row, col)) == (row, col)
    assert parse_cell("$c$7") == (6, 2)
    area = Range(row, col, row + 3, col + 2)
    assert parse_range(str(area)) == area
    assert cell_name(1_048_575, 16_383) == "XFD1048576"


@pytest.mark.parametrize("address", ["", "7", "B0", "A1:B2:C3", "A-1", "é1", "A1:", None, 7])
def test_what_is_no_address_is_named(address):
    with pytest.raises(InputError, match="address"):
        parse_range(address)


def test_an_address_that_was_left_out_is_named():
    shown = AddressMap(np.array([0, 5]), np.array([2, 7]))
    assert (shown.source("B2"), shown.shown("H6")) == ("H6", "B2")
    assert shown.source_range("A1:B2") == Range(0, 2, 5, 7)
    with pytest.raises(InputError, match="'C1' is not in the text"):
        shown.source("C1")
    with pytest.raises(InputError, match="'D1' was left out"):
        shown.shown("D1")


@pytest.mark.parametrize(
    ("text", "name"),
    [("1999", "Year"), ("2199", "IntNum"), ("12,345", "IntNum"), ("-7", "IntNum"), ("(7)", "IntNum"),
     ("3.14", "FloatNum"), (".5", "FloatNum"), ("12.5 %", "Percentage"), ("%", ""), ("1e-5", "ScientificNum"),
     ("2001-02-03", "DateData"), ("2001-02-03 04:05:06", "DateData"), ("3/4/2001", "DateData"),
     ("12-Jan-2001", "DateData"), ("March 3, 2001", "DateData"), ("12:30", "TimeData"), ("1:02:03 pm", "TimeData"),
     ("$1,200.50", "Currency"), ("-€5", "Currency"), ("12 EUR", "Currency"), ("a.b@c.org", "EmailData"),
     ("a@b", ""), ("Total", ""), ("1-800-555", ""), ("", ""), ("9" * 200, "")],
)  # fmt: skip
def test_the_nine_types(text, name):
    assert data_type(text) == name
    assert name in ("", *TYPES)


def test_a_number_format_says_more_than_the_text():
    builder = SheetBuilder()
    builder.add(0, 0, "1999", Kind.NUMBER, "#,##0")
    builder.add(0, 1, "1999", Kind.NUMBER, "General")
    builder.add(0, 2, "words", Kind.TEXT, "@")
    builder.add(0, 3, "=A1", Kind.FORMULA, "0.0")
    builder.add(0, 4, "2001-01-01", Kind.DATE, "yyyy/mm/dd")
    codes, names = labels(builder.build())
    assert [names[i] if i >= 0 else "" for i in codes.tolist()] == ["#,##0", "Year", "", "", "yyyy/mm/dd"]


def test_a_huge_hollow_rectangle_is_not_written_out():
    sheet = sheet_of({(0, 0): "a", (1_048_575, 16_383): "z"})
    assert encode(sheet, "index") == "a|A1\nz|XFD1048576"
    with pytest.raises(InputError, match="mostly empty"):
        encode(sheet, "plain", empties=True)
    with pytest.raises(InputError, match="layout must be one of"):
        encode(sheet, "html")
    with pytest.raises(InputError, match="plain, rows and index"):
        decode("x", "bare")
