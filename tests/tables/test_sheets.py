"""The method `sheets`: tables in passages are compressed as tables, everything else by the text method."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sheet_helpers import grids, report, sheet_of

from ctxcomp import Budget, Cached, Chain, InputError, Passage, load, resolve_counter
from ctxcomp.cli import main
from ctxcomp.tables.packing import sheet_text
from ctxcomp.tables.passages import segments

TOWNS = "\n".join(f"| Town {i} | {i * 1000 + 7} | {i * 13} |" for i in range(1, 80))
MARKDOWN = (
    f"Deliveries of last year.\n\n| Name | Amount | Share |\n|---|---:|---|\n{TOWNS}\n\nThe mail was late in May."
)
CSV = "name,amount,share\n" + "\n".join(f"Town {i},{i * 1000 + 7},{i * 13}" for i in range(1, 80))
CELLS = "".join(f"<tr><td>Town {i}</td><td>{i * 1000 + 7}</td><td>{i * 13}</td></tr>" for i in range(1, 80))
HTML = (
    f'<p>Before</p><table class="x"><tr><th>Name</th><th colspan=2>Amount &amp; share</th></tr>{CELLS}</table> After.'
)
SHEETS = load("sheets", text_method="bm25", counter="minilm")


@pytest.mark.parametrize("text", [MARKDOWN, CSV, HTML])
def test_a_table_in_a_passage_is_compressed_as_a_table(text):
    passages = [Passage("It rained in Bonn. Nobody minded. " * 5), Passage(text)]
    result = SHEETS.compress("What is the amount of Town 61?", passages, Budget(tokens=60))
    count = resolve_counter("minilm").count
    assert result.stats.tokens_out == count(result.text) <= 60
    assert result.spans is None
    assert result.stats.method == "sheets"
    lines = result.text.splitlines()
    assert any(line.startswith("Town 61|61007") for line in lines)
    assert any(line.lower().startswith("name|amount") for line in lines)
    assert "…" in lines
    assert all(text in result.text for text in result.passage_texts)


def test_prose_keeps_its_place_around_the_table():
    result = SHEETS.compress("When was the mail late? And Town 5?", [Passage(MARKDOWN)], Budget(tokens=200))
    assert result.text.index("Name|") < result.text.index("Town 5|5007") < result.text.index("The mail was late")


def test_without_a_table_the_text_method_answers_with_spans():
    passages = [Passage("One, two. Three. Four | five."), Passage("A poem,\nof lines,\nwith commas.\n")]
    result = SHEETS.compress("two", passages, Budget(tokens=8))
    plain = load("bm25", counter="minilm").compress("two", passages, Budget(tokens=8))
    assert (result.text, result.spans) == (plain.text, plain.spans)
    whole = SHEETS.compress("x", [Passage(MARKDOWN)], Budget(keep=1))
    assert whole.text == MARKDOWN
    assert whole.spans


@pytest.mark.parametrize(
    ("text", "used"),
    [(MARKDOWN, "A1:C80"), (CSV, "A1:C80"), (HTML, "A1:C80"), (CSV.replace(",", "\t"), "A1:C80"),
     (CSV.replace(",", ";"), "A1:C80"), ("a|b\n-|-\n1|2\n", "A1:B2"),
     ("<table><tr><td rowspan=2>a<td>b<tr><td>c</table>", "A1:B2"),
     ("<TABLE><tr><td><table><tr><td>in</table></td><td>x</td></tr><tr><td>y</td><td>z</td></tr></TABLE>", "A1:B2")],
)  # fmt: skip
def test_tables_are_found(text, used):
    tables = [part for part in segments(Passage(text)) if part.sheet is not None]
    assert [str(part.sheet.used) for part in tables] == [used]


@pytest.mark.parametrize(
    "text",
    ["", "a,b", "Dear Anna, hello,\nthanks, really,\nbye, Otto,\n", "<table></table>", "<table><tr><td>one</table>",
     '{"a": 1,\n"b": 2,\n"c": 3}', "</table></table><table>", "a|b", "x,y\n1,2\n1,2,3\n", "\ud800,a\n\ud800,b"],
)  # fmt: skip
def test_what_is_no_table_is_prose(text):
    assert all(part.sheet is None for part in segments(Passage(text)))


@settings(max_examples=25)
@given(
    st.lists(st.one_of(grids.map(sheet_of), st.sampled_from([MARKDOWN, CSV, HTML, "Rain. " * 30, ""])), max_size=4),
    st.integers(0, 150),
    st.sampled_from(["", "Town 7", "a 0"]),
)
def test_the_budget_holds_for_any_mix(given_, tokens, query):
    passages = [
        Passage(one) if isinstance(one, str) else Passage(sheet_text(one), metadata={"sheet": one}) for one in given_
    ]
    result = SHEETS.compress(query, passages, Budget(tokens=tokens))
    assert result.stats.tokens_out == resolve_counter("minilm").count(result.text) <= tokens
    assert len(result.passage_texts) == len(passages)
    assert all(text in result.text for text in result.passage_texts)


def test_protected_prose_beside_a_table_stays():
    start = MARKDOWN.index("The mail")
    passage = Passage(MARKDOWN, metadata={"protect": [[start, start + 8]]})
    assert "The mail was late" in SHEETS.compress("Town 3", [passage], Budget(tokens=90)).text


def test_it_composes_with_a_cache_and_ends_a_chain():
    request = ("Town 61", [Passage(MARKDOWN)], Budget(tokens=60))
    cached = Cached(inner=SHEETS)
    assert cached.compress(*request).text == cached.compress(*request).text == SHEETS.compress(*request).text
    with pytest.raises(InputError, match="can only be the last stage"):
        Chain(stages=(SHEETS, load("bm25", counter="minilm"))).compress(*request)
    with pytest.raises(InputError, match="k must be 0 or more"):
        load("sheets", k=-1)


@pytest.fixture
def workbook(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Towns"
    for line in CSV.splitlines():
        sheet.append([int(field) if field.isdigit() else field for field in line.split(",")])
    book.create_sheet("Empty")
    path = tmp_path / "book.xlsx"
    book.save(path)
    (tmp_path / "t.csv").write_text(CSV)
    return path


def run(capsysbinary, *arguments):
    status = main(["compress", *map(str, arguments), "--tokenizer", "minilm"])
    out, err = capsysbinary.readouterr()
    return status, out.decode(), err.decode()


def test_the_command_line_takes_workbooks(capsysbinary, workbook):
    status, out, err = run(capsysbinary, workbook, "-q", "amount of Town 61", "--tokens", 60)
    assert status == 0
    assert "61007" in out
    assert ", sheets, " in err
    status, out, _ = run(capsysbinary, workbook, "-q", "Town 61", "--keep", 0.2, "--format", "json")
    found = json.loads(out)
    assert [p["id"].rpartition("#")[2] for p in found["passages"]] == ["Towns", "Empty"]
    assert found["passages"][0]["spans"] is None
    assert "61007" in found["passages"][0]["text"]
    status, out, _ = run(capsysbinary, workbook, "-q", "Town 61", "--tokens", 60, "--format", "highlight")
    assert "characters written from" in out
    assert "61007" in out
    status, out, err = run(capsysbinary, workbook, "-q", "Town 61", "--tokens", 60, "--method", "bm25")
    assert ", bm25, " in err


def test_the_command_line_takes_csv_and_refuses_what_it_must(capsysbinary, workbook):
    status, out, err = run(capsysbinary, workbook.with_name("t.csv"), "-q", "Town 61", "--tokens", 60)
    assert (status, "61007" in out, ", sheets, " in err) == (0, True, True)
    status, out, err = run(capsysbinary, workbook.with_name("t.csv"), "-q", "x", "--keep", 1, "--method", "truncate")
    assert out.strip() == CSV
    bad = workbook.with_name("old.xls")
    bad.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600)
    status, out, err = run(capsysbinary, bad, "-q", "x", "--tokens", 60)
    assert (status, out) == (2, "")
    assert "legacy .xls: save it as .xlsx" in err


def test_a_workbook_is_its_sheets(workbook):
    from ctxcomp.tables.readers import read_workbook

    sheets = read_workbook(workbook)
    assert [sheet.name for sheet in sheets] == ["Towns", "Empty"]
    result = SHEETS.compress(
        "Town 61", [Passage(sheet_text(s), metadata={"sheet": s}) for s in (*sheets, report())], Budget(tokens=120)
    )
    assert "61007" in result.passage_texts[0]
