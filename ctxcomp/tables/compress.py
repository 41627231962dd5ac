"""A sheet under a token budget: modules only as far as the budget asks, every shown address traceable."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from typing import Literal, get_args

import numpy as np

from ctxcomp.counting import CounterLike, resolve_counter
from ctxcomp.errors import BudgetError, InputError
from ctxcomp.tables.addresses import AddressMap
from ctxcomp.tables.anchors import find_anchors
from ctxcomp.tables.datatypes import labels
from ctxcomp.tables.encode import Cells, Layout, decode, encode, encode_formats
from ctxcomp.tables.grid import Sheet
from ctxcomp.tables.packing import Packing, SheetOptions
from ctxcomp.types import Budget

Module = Literal["anchors", "index", "formats"]


@dataclass(frozen=True, eq=False)
class CompressedSheet:
    """A sheet as text.

    Parameters
    ----------
    text: title, body and, where cells are missing, a last line that says how many.
    body: the cells, in ``layout``; `decode` reads it.
    layout: how the body is written; "formats" where formats and types stand for values.
    addresses: from the shown addresses to those of the sheet.
    kept: the cells that are shown, at their own addresses.
    sheet: the whole sheet.
    modules: what was applied: "index" and "rows" lose nothing, "anchors" drops cells far from borders, "formats"
        values, "blocks" the least relevant rows or columns.
    tokens_in, tokens_out: of the whole sheet in the layout "rows" with its title, and of ``text``.
    counter: the name of what counted.
    """

    text: str
    body: str
    layout: Layout | Literal["formats"]
    addresses: AddressMap
    kept: Sheet
    sheet: Sheet
    modules: tuple[str, ...]
    tokens_in: int
    tokens_out: int
    counter: str

    def cells(self) -> Cells:
        """The shown cells by their place in the sheet, read back from the body.

        Raises
        ------
        InputError: the body shows no values ("formats") or no addresses ("bare").
        """
        shown = decode(self.body, self.layout)  # type: ignore[arg-type]  # decode() says what it does not read
        rows, cols = self.addresses.rows, self.addresses.cols
        if rows is None or cols is None:
            return shown
        return {(int(rows[r]), int(cols[c])): text for (r, c), text in shown.items()}

    def expand(self, address: str) -> str:
        """The uncompressed range for the second stage of Chain of Spreadsheet, at the sheet's own addresses.

        Parameters
        ----------
        address: a cell or range as the text shows it, such as "A3:F20": what was left out inside of it comes back.

        Raises
        ------
        InputError: it is no address, or not in the text.
        """
        return encode(self.sheet.within(self.addresses.source_range(address)), "rows")

    def chunks(self, address: str, tokens: int, *, header_rows: int = 1, counter: CounterLike = None) -> Iterator[str]:
        """The uncompressed range in parts of at most ``tokens`` tokens, each under the header rows.

        Raises
        ------
        InputError: it is no address, or not in the text.
        BudgetError: the header with one row has more tokens.
        """
        inside = self.sheet.within(self.addresses.source_range(address))
        rows = np.unique(inside.row)
        count = resolve_counter(counter).count
        header, at = rows[:header_rows], header_rows
        if at >= len(rows):
            header, at = rows[:0], 0
        while at < len(rows):
            text, size = "", 0
            low, high = 0, len(rows) - at + 1
            while high - low > 1:
                middle = min((low + high) // 2, max(2 * low, 1))
                trial = encode(inside.where(np.isin(inside.row, [*header, *rows[at : at + middle]])), "rows")
                if (size := count(trial)) <= tokens:
                    low, text = middle, trial
                else:
                    high = middle
            if not low:
                raise BudgetError(f"a row of {address!r} with its header has {size} tokens, {tokens} are allowed")
            yield text
            at += low


def module_text(sheet: Sheet, modules: Collection[Module], *, k: int = 4, remap: bool = True) -> str:
    """A sheet with exactly these modules, in the forms of the paper; without any, every cell with its address.

    Raises
    ------
    InputError: no such module.
    """
    if unknown := set(modules) - set(get_args(Module)):
        raise InputError(f"modules are {', '.join(get_args(Module))}, got {', '.join(map(repr, sorted(unknown)))}")
    kept, addresses = sheet, AddressMap()
    if "anchors" in modules and len(sheet):
        rows, cols = find_anchors(sheet).near(sheet, k)
        kept = sheet.where(np.isin(sheet.row, rows) & np.isin(sheet.col, cols))
        if remap:
            addresses = AddressMap(np.unique(kept.row), np.unique(kept.col))
    if "formats" in modules:
        return encode_formats(kept, *labels(kept), addresses, merge="index" in modules)
    if "index" in modules:
        return encode(kept, "index", addresses)
    return encode(kept, "plain", addresses, empties=True)


def compress_sheet(
    sheet: Sheet, query: str = "", budget: Budget | None = None, *, counter: CounterLike = None, **options: int | None
) -> CompressedSheet:
    """Make a sheet small.

    Parameters
    ----------
    query: what the sheet is for; rows and columns that it names go last.
    budget: what may remain, never exceeded; modules are applied only as far as it asks. None: modules 1 and 2 (and 3,
        see ``aggregate``) in full.
    counter: counts the budget, see `ctxcomp.counting`.
    options: fields of `SheetOptions`.

    Raises
    ------
    InputError: an option is unknown or takes no such value.
    BudgetError: not even one cell fits.

    Source
    ------
    Tian et al., "SpreadsheetLLM" (2024). Ours: full tables are written in rows where that is shorter than the inverted
    index; the question's rows and columns count as anchors; under a budget the least worthy rows go first.
    """
    try:
        chosen = SheetOptions(**options)  # type: ignore[arg-type]  # check_fields says what is wrong
    except TypeError as error:
        raise InputError(f"{error}: the options are {', '.join(f.name for f in fields(SheetOptions))}") from None
    if not isinstance(sheet, Sheet):
        raise InputError(f"sheet must be a Sheet, as read_workbook() gives them, got {type(sheet).__name__}")
    work = Packing(sheet, query, resolve_counter(counter), chosen)
    found = work.run(budget)
    return CompressedSheet(
        found.text, found.body, found.layout, found.addresses, found.kept, sheet, found.modules,
        work.tokens_in, found.tokens, work.counter.name,
    )  # fmt: skip
