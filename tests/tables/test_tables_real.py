"""Real and hostile workbooks: what openpyxl shows is what we hold, and nothing crashes."""

from __future__ import annotations

import re
import warnings

import pytest

from ctxcomp import Budget
from ctxcomp.tables.anchors import find_anchors
from ctxcomp.tables.compress import compress_sheet, module_text
from ctxcomp.tables.encode import decode, encode
from ctxcomp.tables.readers import read_workbook

openpyxl = pytest.importorskip("openpyxl")
pytest.importorskip("python_calamine")


def real_files(shared):
    files = sorted((shared / "data" / "sheets" / "xlsx").glob("*.xlsx"))
    if not files:
        pytest.skip("the shared workbooks are not there")
    return files


def test_every_cell_and_address_of_the_real_workbooks(shared):
    for path in real_files(shared)[::7]:
        book = openpyxl.load_workbook(path, data_only=True)
        for sheet in read_workbook(path):
            theirs = {
                (cell.row - 1, cell.column - 1)
                for row in book[sheet.name].iter_rows()
                for cell in row
                if cell.value is not None and str(cell.value).strip()
            }
            cells = sheet.cells()
            assert set(cells) == theirs
            assert [str(m) for m in sheet.merges] == [
                str(m)
                for m in sorted(
                    book[sheet.name].merged_cells.ranges, key=lambda m: (m.min_row, m.min_col, m.max_row, m.max_col)
                )
            ]
            for layout in ("rows", "index", "plain"):
                assert decode(encode(sheet, layout), layout) == cells
            for budget in (None, Budget(tokens=400)):
                found = compress_sheet(sheet, "total 2005", budget, counter="minilm", aggregate=False)
                assert found.cells().items() <= cells.items()
                assert found.cells() == found.kept.cells()


def test_a_wide_real_sheet_is_a_tenth(shared):
    path = next((p for p in real_files(shared) if p.stem == "10s0406"), None)
    if path is None:
        pytest.skip("10s0406.xlsx is not there")
    sheet = read_workbook(path)[0]
    assert len(module_text(sheet, ())) > 20 * len(module_text(sheet, ("anchors", "index", "formats")))
    assert find_anchors(sheet).tables


def test_fifty_mutated_workbooks():
    fuzz = pytest.importorskip("ctxcomp_eval.bench.sheets_fuzz")
    book = fuzz.unpacked(fuzz.generated())
    import random

    for i in range(50):
        name = list(fuzz.MUTATIONS)[i % len(fuzz.MUTATIONS)]
        if name == "bomb":
            continue
        made = fuzz.MUTATIONS[name](random.Random(i), dict(book))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            outcome = fuzz.attempt(made if isinstance(made, bytes) else fuzz.packed(made))
        assert outcome in {"compressed", "InputError", "BudgetError"}, (i, name)


def test_the_readme_runs(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    book = openpyxl.Workbook()
    book.active.append(["Town", "1993", "1994"])
    for i in range(300):
        book.active.append([f"Town {i}", i * 7, i * 11])
    book.save("book.xlsx")
    found = re.findall(
        r"```python\n(.*?)```", (root / "ctxcomp/tables/README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert found
    for block in found:
        exec(compile(block, "README.md", "exec"), {})
        assert capsys.readouterr().out.strip()
