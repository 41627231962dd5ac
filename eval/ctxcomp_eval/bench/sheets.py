"""Spreadsheets: tokens by module, borders, addresses, a million cells, answers. Writes results/sheets.csv.

    python -m ctxcomp_eval.bench.sheets

Sets: "xlsx" is every sheet with cells of the 30 workbooks of the shared data; "wide" those of them with at least ten
used columns; "fuste" a quarter of its CSV files, by the hash of their names; "made" sheets with known borders. Tokens
are o200k_base; the plain text that is compared with is the paper's: every cell of the used rectangle, empty ones too,
as ``A1,value|``. Borders: of fuste's annotated tables, the share of first and last rows and columns that are among the
kept ones at k = 4; "looked at" is the half of fuste (by hash) that was looked at when the rules were written.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ctxcomp.counting import TokenCounter, resolve_counter
from ctxcomp.tables.anchors import find_anchors
from ctxcomp.tables.compress import Module, compress_sheet, module_text
from ctxcomp.tables.encode import decode, encode
from ctxcomp.tables.grid import Kind, Range, Sheet, SheetBuilder, column_name
from ctxcomp.tables.readers import add_row, read_workbook
from ctxcomp.types import Budget
from ctxcomp_eval import data
from ctxcomp_eval.bench import sheets_answers
from ctxcomp_eval.bench.common import RESULTS, write_csv
from ctxcomp_eval.bench.memory import peak_bytes
from ctxcomp_eval.retention import bootstrap

SETTINGS: dict[str, tuple[Module, ...]] = {
    "plain": (),
    "M1": ("anchors",),
    "M2": ("index",),
    "M3": ("formats",),
    "M1+2": ("anchors", "index"),
    "M1+3": ("anchors", "formats"),
    "all": ("anchors", "index", "formats"),
}
WIDE = 10
K = 4
Row = dict[str, Any]


def workbooks() -> Iterator[Sheet]:
    """Every sheet with cells of the shared workbooks, named by its file."""
    for path in sorted((data.data_dir() / "sheets" / "xlsx").glob("*.xlsx")):
        yield from (sheet for sheet in read_workbook(path) if len(sheet))


def fuste() -> Iterator[tuple[str, Sheet, list[dict[str, Any]]]]:
    """The annotated CSV files: name, sheet and regions."""
    for row in data.read_rows(data.data_dir() / "sheets" / "fuste.jsonl.gz"):
        builder = SheetBuilder(row["name"])
        for i, fields in enumerate(csv.reader(io.StringIO(row["csv"]))):
            add_row(builder, i, fields)
        yield row["name"], builder.build(), row["annotation"]["regions"]


def digest(name: str) -> int:
    """A byte that depends on the name alone."""
    return hashlib.sha256(name.encode()).digest()[0]


def made(rows: int, cols: int, seed: int) -> tuple[Sheet, Range]:
    """A title, a header, labels and numbers, and a note; and where the table is."""
    dice = np.random.default_rng(seed)
    builder, top, left = SheetBuilder(f"made {rows}x{cols}"), 2, 1
    builder.add(0, 0, "Deliveries by town and month", Kind.TEXT)
    for c in range(cols):
        builder.add(top, left + c, "Town" if not c else f"Month {c}", Kind.TEXT, style=1)
    for r in range(1, rows):
        builder.add(top + r, left, f"Town {r}", Kind.TEXT)
        for c, value in enumerate(dice.integers(0, 50_000, cols - 1).tolist(), 1):
            builder.add(top + r, left + c, str(value), Kind.NUMBER, "#,##0")
    builder.add(top + rows + 2, 0, "Source: nobody", Kind.TEXT)
    return builder.build(), Range(top, left, top + rows - 1, left + cols - 1)


def tokens(name: str, sheets: list[Sheet], counter: TokenCounter) -> Iterator[Row]:
    """Tokens of all sheets together by module; the interval is over sheets, of the quotient of the sums."""
    counts = np.array(
        [
            [counter.count(module_text(s, m, k=K)) for m in SETTINGS.values()]
            for s in tqdm(sheets, desc=name, disable=None)
        ]
    )
    own = np.array([counter.count(encode(s, "rows")) for s in sheets])
    draws = np.random.default_rng(0).integers(0, len(sheets), (2000, len(sheets)))
    for i, setting in enumerate(SETTINGS):
        factors = counts[draws, 0].sum(1) / counts[draws, i].sum(1)
        low, high = np.quantile(factors, (0.025, 0.975))
        yield _row("tokens", name, setting, len(sheets), counts[:, i].sum())
        yield _row("times fewer tokens", name, setting, len(sheets), counts[:, 0].sum() / counts[:, i].sum(), low, high)
    yield _row("tokens", name, "rows layout, whole", len(sheets), own.sum())
    yield _row("sheets with 10 times fewer", name, "all", len(sheets), (counts[:, 0] >= 10 * counts[:, -1]).mean())


def addresses(name: str, sheets: list[Sheet]) -> Row:
    """The share of shown cells that map back to the cell of the sheet that holds their text."""
    right = shown = 0
    for sheet in sheets:
        cells = sheet.cells()
        for budget in (None, Budget(tokens=300), Budget(keep=0.3)):
            for remap in (True, False):
                found = compress_sheet(sheet, budget=budget, aggregate=False, remap=remap).cells()
                shown += len(found)
                right += sum(cells.get(place) == text for place, text in found.items())
        lossless = decode(encode(sheet, "index"), "index")
        shown, right = shown + len(cells), right + sum(lossless.get(p) == text for p, text in cells.items())
    return _row("addresses that map back", name, "M1+2 and budgets", shown, right / shown)


def borders() -> Iterator[Row]:
    """How many annotated table borders survive the anchors."""
    halves: dict[str, list[float]] = {"looked at": [], "held out": []}
    cells: dict[str, list[int]] = {"looked at": [0, 0], "held out": [0, 0]}
    for name, sheet, regions in fuste():
        half = "looked at" if digest(name) % 2 == 0 else "held out"
        rows, cols = find_anchors(sheet).near(sheet, K)
        for region in (r for r in regions if r["region_type"] == "Table"):
            (left, top), (right, bottom) = region["top_lx"], region["bot_rx"]
            halves[half] += [float(x in rows) for x in (top, bottom)] + [float(x in cols) for x in (left, right)]
        cells[half][0] += int((np.isin(sheet.row, rows) & np.isin(sheet.col, cols)).sum())
        cells[half][1] += len(sheet)
    for half, values in halves.items():
        mean = bootstrap(values)
        yield _row("table borders kept", f"fuste, {half}", f"k={K}", len(values), mean.mean, mean.low, mean.high)
        yield _row("cells kept", f"fuste, {half}", f"k={K}", cells[half][1], cells[half][0] / cells[half][1])


def write_million(path: Path, rows: int = 20_000, cols: int = 50) -> None:
    """A workbook of a million cells."""
    names = [column_name(c) for c in range(cols)]
    parts = ['<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>']
    for r in range(1, rows + 1):
        numbers = "".join(f'<c r="{names[c]}{r}"><v>{r * c * 37 % 99991}</v></c>' for c in range(1, cols))
        parts.append(f'<row r="{r}"><c r="A{r}" t="inlineStr"><is><t>name {r}</t></is></c>{numbers}</row>')
    parts.append("</sheetData></worksheet>")
    office = "http://schemas.openxmlformats.org"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as book:
        book.writestr("[Content_Types].xml", f'<Types xmlns="{office}/package/2006/content-types">'
                      '<Default Extension="rels" '
                      'ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName='
                      f'"/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/><Override PartName='
                      f'"/xl/worksheets/sheet1.xml" ContentType="{kind}.worksheet+xml"/></Types>')  # fmt: skip
        book.writestr("_rels/.rels", f'<Relationships xmlns="{office}/package/2006/relationships">'
                      '<Relationship Id="r1" '
                      f'Type="{office}/officeDocument/2006/relationships/officeDocument" Target="xl/workbook.xml"/>'
                      "</Relationships>")  # fmt: skip
        book.writestr("xl/workbook.xml", f'<workbook xmlns="{office}/spreadsheetml/2006/main" xmlns:r="{office}/'
                      'officeDocument/2006/relationships"><sheets><sheet name="big" sheetId="1" r:id="r1"/></sheets>'
                      "</workbook>")  # fmt: skip
        book.writestr("xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{office}/package/2006/relationships">'
                      f'<Relationship Id="r1" Type="{office}/officeDocument/2006/relationships/worksheet" '
                      'Target="worksheets/sheet1.xml"/></Relationships>')  # fmt: skip
        book.writestr("xl/worksheets/sheet1.xml", "".join(parts))


def million() -> Iterator[Row]:
    """Seconds and peak memory of a process that reads and compresses a million cells."""
    with tempfile.TemporaryDirectory() as folder:
        write_million(path := Path(folder, "big.xlsx"))
        text = Path(folder, "big.csv")
        text.write_text(
            "\n".join(",".join([f"name {r}", *(str(r * c * 37 % 99991) for c in range(1, 50))]) for r in range(20_000))
        )
        for file in (path, text):
            command = [sys.executable, "-m", "ctxcomp_eval.bench.sheets", "--child", str(file)]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            for name in ("seconds", "cpu_seconds", "peak_bytes"):
                yield _row(f"1,000,000 cells, {name}", file.suffix, "tokens=1000", found["cells"], found[name])


def child(path: str) -> dict[str, Any]:
    """What this process needs for one file."""
    began = time.perf_counter()
    (sheet,) = read_workbook(path)
    found = compress_sheet(sheet, "What does name 17321 have?", Budget(tokens=1000))
    if found.tokens_out > 1000 or "name 17321" not in found.text:
        raise AssertionError("the row that was asked for is not there")
    return {
        "cells": len(sheet),
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time(),
        "peak_bytes": peak_bytes(),
    }


def _row(measure: str, set_: str, setting: str, n: int, value: float, low: Any = "", high: Any = "") -> Row:
    return {
        "measure": measure,
        "set": set_,
        "setting": setting,
        "n": n,
        "value": float(value),
        "low": low,
        "high": high,
    }


def run() -> Iterator[Row]:
    """All rows."""
    counter = resolve_counter("o200k_base")
    real = list(workbooks())
    sample = [sheet for name, sheet, _ in fuste() if digest(name) % 4 == 1 and len(sheet)]
    generated = list(starmap(made, ((40, 8, 0), (200, 12, 1), (500, 30, 2), (1000, 6, 3))))
    sets = {
        "xlsx": real,
        "wide": [s for s in real if len(np.unique(s.col)) >= WIDE],
        "fuste": sample,
        "made": [sheet for sheet, _ in generated],
    }
    for name, sheets in sets.items():
        yield from tokens(name, sheets, counter)
        yield addresses(name, sheets)
    yield from borders()
    known = [find_anchors(sheet).tables[0] == table for sheet, table in generated]
    yield _row("tables found exactly", "made", "anchors", len(known), float(np.mean(known)))
    yield from million()
    yield from sheets_answers.measure(real, counter)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS / "sheets.csv")
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(child(options.child)))
        return
    rows = []
    for row in run():
        rows.append(row)
        print("{measure}: {set}, {setting}: {value:.4g} [{low}, {high}] (n={n})".format(**row), flush=True)
    write_csv(options.out, rows, ("ctxcomp", "numpy", "tiktoken", "openpyxl", "python-calamine"))


if __name__ == "__main__":
    main()
