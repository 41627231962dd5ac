"""Workbooks through openpyxl, with styles, number formats and formulas; and through calamine, values only."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from itertools import repeat
from typing import Any, Literal

from ctxcomp.errors import CtxcompError, InputError
from ctxcomp.optional import require
from ctxcomp.tables.datatypes import ERRORS
from ctxcomp.tables.grid import Kind, Sheet, SheetBuilder
from ctxcomp.tables.package import Package, Part
from ctxcomp.tables.values import as_text

Formulas = Literal["values", "formulas", "both"]

SPARSE_PLACES = 5_000_000
"""Places that openpyxl may step over: it visits the empty ones before a row's last cell, and empty rows."""
_STUMBLES = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, NotImplementedError, OSError, SyntaxError,
    RecursionError, TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What damaged files make the two libraries raise; out of memory is none of it. XML's errors are SyntaxErrors."""
DENSE_PLACES = 20_000_000
"""Places of a sheet's rectangle that calamine may hold: it stores the empty ones too."""


def read_styled(data: bytes, name: str, package: Package, formulas: Formulas) -> list[Sheet]:
    """The sheets with everything that anchors and formats look at.

    Raises
    ------
    InputError: the workbook is damaged.
    """
    openpyxl = require("openpyxl", extra="sheets")
    calculated = any(part.formulas for part in package.parts.values())
    if package.places > SPARSE_PLACES:
        raise InputError(f"{name}: its cells are spread over more than {SPARSE_PLACES} places: the file is damaged")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about parts that are not read
        try:
            books = [
                openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=only, keep_links=False)
                for only in ((True, False) if calculated else (True,))
            ]
            return [
                _styled(sheet.title, [book[sheet.title] for book in books], package, formulas)
                for sheet in books[0].worksheets
            ]
        except CtxcompError:
            raise
        except (*_STUMBLES, openpyxl.utils.exceptions.InvalidFileException) as error:
            raise InputError(f"{name}: damaged: openpyxl says {type(error).__name__}: {error!s:.200}") from error


def _styled(title: str, sheets: list[Any], package: Package, formulas: Formulas) -> Sheet:
    for sheet in sheets:
        sheet.reset_dimensions()  # what the file declares may be anything
    builder = SheetBuilder(title)
    part = package.parts.get(title, Part())
    looks: dict[tuple[int, int, int], int] = {}
    shown = False
    values = sheets[0].iter_rows()
    written: Iterator[Any] = sheets[1].iter_rows() if len(sheets) > 1 else repeat(())
    for row, formula_row in zip(values, written, strict=False):
        for i, cell in enumerate(row):
            formula = _formula(formula_row[i].value) if i < len(formula_row) else ""
            if cell.value is None and not formula:
                continue
            text, kind = _shown(cell, formula, formulas)
            shown = shown or bool(formula and formula in text)
            place = cell if cell.value is not None or not formula else formula_row[i]
            style = place.style_array
            look = (style.fontId, style.fillId, style.borderId)
            builder.add(
                place.row - 1, place.column - 1, text, kind, place.number_format, looks.setdefault(look, len(looks))
            )
    return builder.build(part.merges, hidden=title in package.hidden, formulas=shown)


def _formula(value: Any) -> str:
    """The formula of a cell, "" if it has none."""
    text = getattr(value, "text", None) if not isinstance(value, str) else value  # array formulas are objects
    return text if isinstance(text, str) and text.startswith("=") and len(text) > 1 else ""


def _shown(cell: Any, formula: str, formulas: Formulas) -> tuple[str, Kind]:
    if formula and (formulas == "formulas" or cell.value is None):
        return formula, Kind.FORMULA
    text, kind = as_text(cell.value)
    if cell.data_type == "e":
        kind = Kind.ERROR
    if formula and formulas == "both":
        text = f"{text} {formula}"
    return text, kind


def read_values(data: bytes, name: str, package: Package) -> list[Sheet]:
    """The sheets' values and merged areas, in a tenth of the time; calamine has no error values, so those are empty.

    Raises
    ------
    InputError: the workbook is damaged, or a sheet's rectangle is too large for this reader.
    """
    calamine = require("python_calamine", extra="sheets")
    for title, part in package.parts.items():
        if (part.bottom + 1) * (part.right + 1) > DENSE_PLACES:
            raise InputError(f"{name}: sheet {title!r:.80} spreads over more than {DENSE_PLACES} places")
    try:
        book = calamine.load_workbook(io.BytesIO(data))
        kinds = {meta.name: meta.typ for meta in book.sheets_metadata}
        return [
            _valued(book.get_sheet_by_name(title), title, package)
            for title in book.sheet_names
            if kinds[title] == calamine.SheetTypeEnum.WorkSheet
        ]
    except CtxcompError:
        raise
    except BaseException as error:
        # A panic in Rust is no Exception, and its class can be imported from nowhere.
        if not isinstance(error, (calamine.CalamineError, *_STUMBLES)) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{name}: damaged: calamine says {type(error).__name__}: {error!s:.200}") from error


def _valued(sheet: Any, title: str, package: Package) -> Sheet:
    builder = SheetBuilder(title)
    if sheet.start is not None:
        # Empty rows at the top are there, empty columns at the left are not.
        for row, values in enumerate(sheet.iter_rows()):
            for col, value in enumerate(values, sheet.start[1]):
                if value is not None and value != "":
                    text, kind = as_text(value)
                    builder.add(row, col, text, Kind.ERROR if kind is Kind.TEXT and text in ERRORS else kind)
    part = package.parts.get(title, Part())
    return builder.build(part.merges, hidden=title in package.hidden)
