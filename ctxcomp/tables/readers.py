"""Files to sheets: .xlsx and .xlsm, .csv and .tsv."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, get_args

from ctxcomp.errors import InputError
from ctxcomp.inputs import decode
from ctxcomp.tables.datatypes import infer_kind
from ctxcomp.tables.grid import Sheet, SheetBuilder
from ctxcomp.tables.package import OLE, ZIP, Limits, open_package
from ctxcomp.tables.xlsx import DENSE_PLACES, SPARSE_PLACES, Formulas, read_styled, read_values

Reader = Literal["auto", "openpyxl", "calamine"]

STYLED_CELLS = 250_000
"""Workbooks with more cells are read without styles, number formats and formulas, twenty times as fast."""
DELIMITERS = ",;\t|"


def read_workbook(
    source: str | PathLike[str] | bytes,
    *,
    name: str = "",
    formulas: Formulas = "values",
    reader: Reader = "auto",
    limits: Limits | None = None,
) -> list[Sheet]:
    """The sheets of a file, hidden and empty ones too.

    Links to other files are not followed, macros are not run, entities are not expanded.

    Parameters
    ----------
    source: a path, or the bytes of a file.
    name: what messages call the bytes.
    formulas: show cached "values" (a formula that has none is shown itself), the "formulas", or "both".
    reader: "openpyxl" also reads styles, number formats and formulas; "calamine" is fast; "auto" takes the first up to
        `STYLED_CELLS` cells that are not too far apart.
    limits: how much to read at most.

    Raises
    ------
    InputError: the file is missing, damaged, protected, too large or no spreadsheet.
    MissingDependencyError: the extra ``sheets`` is not installed.
    """
    for option, kind in ((formulas, Formulas), (reader, Reader)):
        if option not in get_args(kind):
            raise InputError(f"must be one of {', '.join(get_args(kind))}, got {option!r}")
    limits = limits or Limits()
    data, name = _bytes(source, name, limits)
    if not is_workbook(data):
        if name.lower().endswith((".xlsx", ".xlsm")):
            raise InputError(f"{name}: no .xlsx file, it begins with {data[:8]!r}: save it again, or name it .csv")
        stem = Path(name).stem if name else ""
        return [parse_delimited(decode(data, name), stem, delimiter="\t" if name.lower().endswith(".tsv") else "")]
    package = open_package(data, name, limits)
    dense = all((p.bottom + 1) * (p.right + 1) <= DENSE_PLACES for p in package.parts.values())
    large = package.cells > STYLED_CELLS or package.places > SPARSE_PLACES
    if reader == "calamine" or (reader == "auto" and large and dense and formulas == "values"):
        return read_values(data, name, package)
    return read_styled(data, name, package, formulas)


def is_workbook(data: bytes) -> bool:
    """Whether a file's bytes are those of a workbook, of any format, and not text."""
    return data.startswith((ZIP, OLE))


def parse_delimited(text: str, name: str = "", *, delimiter: str = "") -> Sheet:
    """A sheet from CSV or TSV text; kinds are told by the values.

    Parameters
    ----------
    delimiter: what separates the fields; "" finds out which of comma, semicolon, tab and bar does.

    Raises
    ------
    InputError: a field is not closed, or longer than the csv module reads (131,072 characters).
    """
    text = text.removeprefix("\ufeff")
    builder = SheetBuilder(name)
    try:
        for row, fields in enumerate(csv.reader(io.StringIO(text, ""), delimiter=delimiter or _delimiter(text))):
            add_row(builder, row, fields)
    except csv.Error as error:
        raise InputError(f"{name or 'table'}: not CSV: {error}") from error
    return builder.build()


def add_row(builder: SheetBuilder, row: int, fields: Sequence[str]) -> None:
    """Put a row of texts whose kinds are to be told."""
    for col, field in enumerate(fields):
        if field := field.strip():
            builder.add(row, col, field, infer_kind(field))


def _delimiter(text: str) -> str:
    """The sign that cuts the first lines into the same number of fields, and most of them."""
    lines = [line for line in text[:100_000].splitlines()[:30] if line.strip()]

    def fitness(sign: str) -> tuple[float, int]:
        counts = [len(fields) for fields in csv.reader(lines, delimiter=sign)]
        usual = max(set(counts), key=counts.count) if counts else 1
        return (counts.count(usual) / len(counts) if usual > 1 else 0.0, usual)

    return max(DELIMITERS, key=fitness) if lines else ","


def _bytes(source: str | PathLike[str] | bytes, name: str, limits: Limits) -> tuple[bytes, str]:
    if isinstance(source, (bytes, bytearray)):
        return bytes(source), name
    if not isinstance(source, (str, PathLike)):
        raise InputError(f"read_workbook() takes a path or bytes, got {type(source).__name__}")
    path = Path(source)
    try:
        if path.stat().st_size > limits.bytes:
            raise InputError(f"{path}: larger than the {limits.bytes} bytes that are read: raise Limits(bytes=...)")
        return path.read_bytes(), name or str(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
