"""Sheets for tests: any small grid, and a report with known borders."""

from __future__ import annotations

from hypothesis import strategies as st

from ctxcomp.tables.datatypes import infer_kind
from ctxcomp.tables.grid import Kind, Range, SheetBuilder

places = st.tuples(st.integers(0, 9), st.integers(0, 9))
texts = st.one_of(
    st.sampled_from(
        ["a", "0", "2001", "x|y", "{a", "\\", "a\nb", "~", "a~B2", "A1", "a\r\nb", ",", "…", "\\n", "|~\\"]
    ),
    st.text(min_size=1, max_size=6),
).filter(str.strip)
grids = st.dictionaries(places, texts.map(str.strip), max_size=40)


def sheet_of(cells, merges=()):
    builder = SheetBuilder("S")
    for (row, col), text in cells.items():
        builder.add(row, col, text, infer_kind(text))
    return builder.build(merges)


def report(rows=60, cols=8, top=3, left=1):
    """A title, a header of years, and numbers under it: a table with known borders."""
    builder = SheetBuilder("Report")
    builder.add(0, 0, "Deliveries by town", Kind.TEXT, style=1)
    for c in range(1, cols):
        builder.add(top, left + c, str(1990 + c), Kind.NUMBER, "0", style=2)
    builder.add(top, left, "Town", Kind.TEXT, style=2)
    for r in range(1, rows):
        builder.add(top + r, left, f"Town {r}", Kind.TEXT)
        for c in range(1, cols):
            builder.add(top + r, left + c, str(r * 1000 + c), Kind.NUMBER, "#,##0")
    return builder.build([Range(0, 0, 0, cols)])
