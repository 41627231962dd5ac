"""Files to sheets: what a workbook holds, and what is refused with clear words."""

from __future__ import annotations

import datetime
import io
import sys
import zipfile

import pytest

from ctxcomp import InputError, MissingDependencyError
from ctxcomp.tables.compress import compress_sheet
from ctxcomp.tables.grid import Kind
from ctxcomp.tables.package import Limits
from ctxcomp.tables.packing import sheet_text
from ctxcomp.tables.readers import parse_delimited, read_workbook

openpyxl = pytest.importorskip("openpyxl")
pytest.importorskip("python_calamine")


def saved(book) -> bytes:
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def changed(data: bytes, **parts: bytes | None) -> bytes:
    """The workbook with some parts replaced, added or (None) left out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in {*old.namelist(), *parts}:
            content = parts.get(name, old.read(name) if name in old.namelist() else b"")
            if content is not None:
                new.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def book():
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Main"
    sheet["A1"], sheet["A2"], sheet["B2"], sheet["C2"] = "Title", "Day", "Amount", "Formula"
    sheet["A3"] = datetime.date(2020, 2, 29)
    sheet["A4"] = datetime.datetime(2020, 2, 29, 13, 30, 15)
    sheet["A5"] = datetime.time(7, 5)
    sheet["A6"] = datetime.timedelta(hours=30, minutes=2)
    sheet["B3"], sheet["B4"], sheet["B5"], sheet["B6"] = 1234.5, 0.1 + 0.2, True, "#DIV/0!"
    sheet["B3"].number_format = "#,##0.00"
    sheet["C3"] = "=B3*2"
    sheet["D4"] = "  two\nlines "
    sheet.merge_cells("A1:C1")
    book.create_sheet("Empty")
    hidden = book.create_sheet("Hidden")
    hidden["XFD9"] = 7
    hidden.sheet_state = "veryHidden"
    return book


def test_values_kinds_and_formats(book):
    main, empty, hidden = read_workbook(saved(book), name="b.xlsx")
    assert main.cells() == {
        (0, 0): "Title", (1, 0): "Day", (1, 1): "Amount", (1, 2): "Formula", (2, 0): "2020-02-29",
        (3, 0): "2020-02-29 13:30:15", (4, 0): "07:05:00", (5, 0): "30:02:00", (2, 1): "1234.5", (3, 1): "0.3",
        (4, 1): "TRUE", (5, 1): "#DIV/0!", (2, 2): "=B3*2", (3, 3): "two\nlines",
    }  # fmt: skip
    kinds = dict(zip(zip(main.row.tolist(), main.col.tolist(), strict=True), main.kind.tolist(), strict=True))
    assert [kinds[p] for p in [(0, 0), (2, 0), (2, 1), (4, 1), (5, 1), (2, 2)]] == [
        Kind.TEXT, Kind.DATE, Kind.NUMBER, Kind.BOOL, Kind.ERROR, Kind.FORMULA,
    ]  # fmt: skip
    assert main.formats[main.format[list(main.cells()).index((2, 1))]] == "#,##0.00"
    assert [str(m) for m in main.merges] == ["A1:C1"]
    assert main.formulas  # one has no cached value, so it is shown itself
    assert (len(empty), empty.used, empty.hidden) == (0, None, False)
    assert (str(hidden.used), hidden.hidden) == ("XFD9", True)
    assert sheet_text(main).startswith("[Main] A1:D6\n|A|B|C|D\n1|Title~C1\n")
    assert sheet_text(hidden).startswith("[Hidden] XFD9 (hidden)")


def test_formulas_and_their_cached_values(book):
    data = saved(book)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        part = archive.read("xl/worksheets/sheet1.xml")
    data = changed(data, **{"xl/worksheets/sheet1.xml": part.replace(b"<f>B3*2</f><v></v>", b"<f>B3*2</f><v>2469</v>")
                            .replace(b"<f>B3*2</f><v />", b"<f>B3*2</f><v>2469</v>")})  # fmt: skip
    for formulas, text in (("values", "2469"), ("formulas", "=B3*2"), ("both", "2469 =B3*2")):
        main = read_workbook(data, formulas=formulas)[0]
        assert main.cells()[2, 2] == text
        assert main.formulas == (formulas != "values")
    with pytest.raises(InputError, match="must be one of values, formulas, both, got 'all'"):
        read_workbook(data, formulas="all")


def test_both_epochs_and_both_readers_agree(book):
    from openpyxl.utils.datetime import CALENDAR_MAC_1904

    del book["Main"]["C3"]
    del book["Main"]["B6"]  # calamine has no error values
    for epoch in (book.epoch, CALENDAR_MAC_1904):
        book.epoch = epoch
        data = saved(book)
        styled, fast = read_workbook(data, reader="openpyxl"), read_workbook(data, reader="calamine")
        assert styled[0].cells()[2, 0] == "2020-02-29"
        for a, b in zip(styled, fast, strict=True):
            assert (a.name, a.merges, a.hidden) == (b.name, b.merges, b.hidden)
            assert a.cells() == b.cells()
            assert a.kind.tolist() == b.kind.tolist()


@pytest.mark.parametrize(
    ("text", "cells"),
    [("a,b\r\n1,2\r\n", [["a", "b"], ["1", "2"]]), ("a;b\n1,5;2\n", [["a", "b"], ["1,5", "2"]]),
     ("\ufeffa\tb\n1\t\n", [["a", "b"], ["1"]]), ('"x, y",b\n"1\n2",3\n', [["x, y", "b"], ["1\n2", "3"]]), ("", []),
     ("one\ntwo\n", [["one"], ["two"]])],
)  # fmt: skip
def test_delimited_text(text, cells):
    expected = {(r, c): value for r, row in enumerate(cells) for c, value in enumerate(row)}
    assert parse_delimited(text).cells() == expected
    assert read_workbook(text.encode())[0].cells() == expected


def test_a_field_that_never_ends_is_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b\n"' + "x" * 200_000)
    with pytest.raises(InputError, match=r"t: not CSV: field larger"):
        read_workbook(path)
    with pytest.raises(InputError, match=r"no such file|cannot be read"):
        read_workbook(tmp_path / "none.xlsx")
    with pytest.raises(InputError, match="takes a path or bytes, got int"):
        read_workbook(7)


NAMELESS = (
    b"<worksheet xmlns='http://schemas.openxmlformats.org/spreadsheetml/2006/main'><sheetData><row>"
    b"<c t='s'><v>99</v></c></row></sheetData></worksheet>"
)
LAUGHS = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><x>&b;</x>'


@pytest.mark.parametrize(
    ("parts", "message"),
    [({"xl/sharedStrings.xml": LAUGHS}, "declares a DTD or entities"),
     ({"xl/workbook.xml": '<?xml version="1.0" encoding="utf-16"?><x/>'.encode("utf-16")}, "XML in UTF-16"),
     ({"xl/workbook.xml": None}, "no xl/workbook.xml"), ({"xl/workbook.xml": b"<x"}, "cannot be parsed"),
     ({"mimetype": b"application/vnd.oasis.opendocument.spreadsheet"}, r"\.xlsb or \.ods"),
     ({"xl/styles.xml": b"<a>" * 500_000}, "nested more than"),
     ({"xl/worksheets/sheet1.xml": NAMELESS}, "damaged")],
)  # fmt: skip
def test_hostile_parts_are_refused(book, parts, message):
    with pytest.raises(InputError, match=message):
        read_workbook(changed(saved(book), **parts), name="h.xlsx")


def test_other_formats_are_refused():
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600
    with pytest.raises(InputError, match=r"l\.xls: legacy \.xls: save it as \.xlsx"):
        read_workbook(ole, name="l.xls")
    with pytest.raises(InputError, match="protected by a password"):
        read_workbook(ole + "EncryptedPackage".encode("utf-16-le"), name="p.xlsx")
    with pytest.raises(InputError, match="begins with b'hello"):
        read_workbook(b"hello,world", name="t.xlsx")
    with pytest.raises(InputError, match=r"damaged, or no .xlsx"):
        read_workbook(b"PK\x03\x04 and nothing more", name="z.xlsx")


def test_sizes_are_checked_declared_and_real(book):
    blank = b" " * 3_000_000
    data = changed(saved(book), **{"xl/media/blank.xml": blank})
    with pytest.raises(InputError, match="bytes unpacked, at most"):
        read_workbook(data, limits=Limits(bytes=1_000_000))
    lying = bytearray(data)
    at = 0
    while (at := lying.find(b"PK\x01\x02", at)) >= 0:
        lying[at + 24 : at + 28] = (10).to_bytes(4, "little")
        at += 4
    with pytest.raises(InputError, match=r"damaged|unpacks to more"):
        read_workbook(bytes(lying), limits=Limits(bytes=1_000_000))
    with pytest.raises(InputError, match=r"more than 5 cells: raise Limits\(cells=...\)"):
        read_workbook(saved(book), limits=Limits(cells=5))
    with pytest.raises(InputError, match="XML tags"):
        read_workbook(changed(saved(book), **{"xl/x.xml": b"<a/>" * 2_200_000}), limits=Limits(cells=30))


def test_huge_claims_cost_nothing(book):
    sheet = book["Main"]
    data = saved(book)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        part = archive.read("xl/worksheets/sheet1.xml").decode()
    part = part.replace('ref="A1:C1"', 'ref="A1:XFD1048576"').replace(
        '<dimension ref="A1:D6"', '<dimension ref="A1:XFD1048576"'
    )
    main = read_workbook(changed(data, **{"xl/worksheets/sheet1.xml": part.encode()}))[0]
    assert str(main.merges[0]) == "A1:XFD1048576"
    assert len(main) == sum(1 for row in sheet.iter_rows() for cell in row if cell.value is not None)
    assert "~XFD1048576" in compress_sheet(main, remap=False).text
    far = "".join(f'<row r="{r}"><c r="XFD{r}"><v>1</v></c></row>' for r in range(100, 2000))
    spread = changed(data, **{"xl/worksheets/sheet1.xml": part.replace("</sheetData>", far + "</sheetData>").encode()})
    with pytest.raises(InputError, match="spread"):
        read_workbook(spread)
    with pytest.raises(InputError, match=r"damaged|spread"):
        read_workbook(
            changed(
                data,
                **{
                    "xl/worksheets/sheet1.xml": part.replace(
                        "</sheetData>", '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>'
                    ).encode()
                },
            ),
            reader="calamine",
        )


def test_without_the_extra_workbooks_say_so_and_csv_works(book, monkeypatch):
    data = saved(book)
    for module in ("openpyxl", "defusedxml", "python_calamine"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"ctxcomp\[sheets\]"):
        read_workbook(data)
    assert read_workbook(b"a,b\n1,2\n")[0].cells()[1, 1] == "2"
