"""A sheet under a budget: never over it, nothing invented, what is asked for stays."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sheet_helpers import grids, report, sheet_of

from ctxcomp import Budget, BudgetError, InputError, resolve_counter
from ctxcomp.tables.anchors import find_anchors
from ctxcomp.tables.compress import compress_sheet, module_text
from ctxcomp.tables.encode import decode
from ctxcomp.tables.grid import Kind, SheetBuilder
from ctxcomp.tables.packing import sheet_text


def letters(text: str) -> int:
    return len(text)


@settings(max_examples=60)
@given(
    grids, st.integers(0, 120), st.sampled_from(["", "a 2001", "0"]), st.booleans(), st.booleans(), st.integers(0, 4)
)
def test_the_budget_holds_and_every_address_names_its_cell(cells, tokens, query, aggregate, remap, k):
    sheet = sheet_of(cells)
    try:
        found = compress_sheet(
            sheet, query, Budget(tokens=tokens), counter=letters, aggregate=aggregate, remap=remap, k=k
        )
    except BudgetError:
        assert tokens < 60  # any one of these cells fits into so much
        return
    assert found.tokens_out == len(found.text) <= tokens
    assert found.tokens_in == len(sheet_text(sheet))
    if found.layout != "formats":
        assert found.cells() == found.kept.cells()
    assert found.kept.cells().items() <= cells.items()
    assert ("…" in found.text.rpartition("\n")[2]) >= (len(found.kept) < len(sheet))
    if found.tokens_in <= tokens:
        assert found.cells() == cells


@settings(max_examples=60)
@given(grids, st.integers(0, 3))
def test_without_a_budget_modules_one_and_two_lose_nothing_near_anchors(cells, k):
    sheet = sheet_of(cells)
    found = compress_sheet(sheet, aggregate=False, k=k)
    rows, cols = find_anchors(sheet).near(sheet, k)
    assert found.cells() == {(r, c): t for (r, c), t in cells.items() if r in rows and c in cols}
    text = module_text(sheet, {"anchors", "index"}, k=k, remap=False)
    assert decode(text, "index") == found.cells()


def test_anchors_are_the_borders_of_the_table():
    sheet = report()
    anchors = find_anchors(sheet)
    assert str(anchors.tables[0]) == "B4:I63"
    rows, cols = anchors.near(sheet, 4)
    assert {3, 4, 62} <= set(rows.tolist())
    assert {1, 8} <= set(cols.tolist())
    assert 30 not in rows


def test_modules_shrink_and_formats_stand_in_exact_rectangles():
    sheet = report(rows=200)
    count = resolve_counter("minilm").count
    sizes = {m: count(module_text(sheet, m)) for m in [(), ("anchors",), ("index",), ("anchors", "formats")]}
    assert sizes["anchors", "formats"] < sizes["anchors",] / 3 < sizes[()] / 9
    text = module_text(sheet, {"formats", "index"})
    numbers = text.split("{#,##0}|")[1].split("\n")[0]
    assert numbers == "C5:I203"
    assert text.split("{0}|")[1].split("\n")[0] == "C4:I4"


def test_the_rows_and_columns_of_the_question_stay():
    sheet = report(rows=500, cols=12)
    found = compress_sheet(sheet, "How many deliveries had Town 321 in 1994?", Budget(tokens=150), counter="minilm")
    assert found.tokens_out <= 150
    assert found.kept.cells()[324, 5] == "321004"
    assert found.kept.cells()[3, 5] == "1994"
    assert "… " in found.text
    assert "321004" in found.text


def test_structure_questions_get_formats_and_then_the_uncompressed_range():
    sheet = report(rows=500)
    found = compress_sheet(sheet, budget=Budget(tokens=400), counter="minilm")
    assert found.layout == "formats"
    assert "{#,##0}|" in found.text
    assert "321004" not in found.text
    whole = found.expand(found.addresses.shown("B5") + ":" + found.addresses.shown("I503"))
    cells = decode(whole, "rows")
    assert cells == {place: text for place, text in sheet.cells().items() if place[0] > 3}
    with pytest.raises(InputError, match=r"not in the text|no cell address"):
        found.expand("ZZ99999999")


def test_chunks_repeat_the_header_and_hold_every_row_once():
    found = compress_sheet(report(rows=100), budget=Budget(tokens=5000), counter="minilm")
    parts = list(found.chunks("B4:I103", 300, counter="minilm"))
    assert len(parts) > 3
    count = resolve_counter("minilm").count
    assert all(count(part) <= 300 and "4|Town|1991" in part for part in parts)
    towns = [text for part in parts for (r, c), text in decode(part, "rows").items() if c == 1 and r > 3]
    assert towns == [f"Town {r}" for r in range(1, 100)]
    with pytest.raises(BudgetError, match="5 are allowed"):
        list(found.chunks("B4:I102", 5, counter="minilm"))


def test_formulas_keep_the_addresses_that_they_name():
    builder = SheetBuilder("F")
    for r in range(100):
        builder.add(r, 0, str(r), Kind.NUMBER)
        builder.add(r, 1, f"=A{r + 1}*2", Kind.FORMULA)
    found = compress_sheet(builder.build(formulas=True), "99", Budget(tokens=60), counter="minilm", remap=True)
    assert found.addresses.rows is None
    assert found.cells().items() <= builder.build().cells().items()


def test_nothing_and_too_little():
    empty = SheetBuilder("Blank").build(hidden=True)
    assert compress_sheet(empty, budget=Budget(tokens=20), counter="minilm").text == "[Blank] (empty) (hidden)"
    assert compress_sheet(SheetBuilder().build()).text == ""
    with pytest.raises(BudgetError, match=r"one cell .* has \d+ tokens and the budget is 1"):
        compress_sheet(report(), budget=Budget(tokens=1), counter="minilm")
    wide = sheet_of({(0, c): f"column {c}" for c in range(3000)})
    found = compress_sheet(wide, "column 2222", Budget(tokens=40), counter="minilm")
    assert found.tokens_out <= 40
    assert found.kept.cells()[0, 2222] == "column 2222"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"k": -1}, "k must be 0 or more"), ({"k": "4"}, "k must be a whole number"), ({"size": 1}, "options are k,"),
     ({"aggregate": "no"}, "aggregate must be")],
)  # fmt: skip
def test_options_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        compress_sheet(report(), **options)
    with pytest.raises(InputError, match="sheet must be a Sheet"):
        compress_sheet("book.xlsx")
    with pytest.raises(InputError, match="modules are"):
        module_text(report(), {"anchor"})


def test_scattered_cells_cost_nothing_extra():
    sheet = sheet_of({(r * 11_000, r * 170): f"v{r}" for r in range(90)})
    found = compress_sheet(sheet, "v77", Budget(tokens=60), counter="minilm")
    assert found.kept.cells()[77 * 11_000, 77 * 170] == "v77"


def test_the_columns_that_match_the_question_are_shown():
    rows = [["Region", "Quarter", "Revenue", "Margin"]]
    rows += [[f"Region {i % 7}", f"Q{i % 4 + 1} {2020 + i // 28}", 1000 + i * 13, (i % 17) / 17] for i in range(400)]
    cells = {(r, c): str(value) for r, row in enumerate(rows) for c, value in enumerate(row)}
    found = compress_sheet(sheet_of(cells), "Revenue of Region 3 in Q2 2024", Budget(tokens=120)).text
    assert all(part in found for part in ("Region 3", "Q2 2024", "2677"))
