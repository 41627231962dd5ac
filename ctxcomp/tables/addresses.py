"""Addresses of a compressed sheet and those of its source: each maps to the other, exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctxcomp.errors import InputError
from ctxcomp.tables.grid import Ints, Range, cell_name, column_name, parse_cell, parse_range


@dataclass(frozen=True, eq=False)
class AddressMap:
    """Between the addresses that a text shows and those of the sheet.

    Parameters
    ----------
    rows, cols: int64, sorted: the source row of each shown row, the source column of each shown column; None where the
        shown addresses are the source's own.
    """

    rows: Ints | None = None
    cols: Ints | None = None

    def source(self, address: str) -> str:
        """The cell of the sheet, ``"B17"``, that a shown address, ``"B3"``, names.

        Raises
        ------
        InputError: it is no address, or the text shows no such row or column.
        """
        row, col = parse_cell(address)
        return cell_name(_inner(self.rows, row, address), _inner(self.cols, col, address))

    def source_range(self, address: str) -> Range:
        """The rectangle of the sheet that a shown range spans, with what was left out inside of it.

        Raises
        ------
        InputError: as for `source`.
        """
        top, left, bottom, right = parse_range(address)
        return Range(
            _inner(self.rows, top, address),
            _inner(self.cols, left, address),
            _inner(self.rows, bottom, address),
            _inner(self.cols, right, address),
        )

    def shown(self, address: str) -> str:
        """The address in the text of a cell of the sheet.

        Raises
        ------
        InputError: it is no address, or its row or column was left out.
        """
        row, col = parse_cell(address)
        return cell_name(*(int(i) for i in (_outer(self.rows, row, address), _outer(self.cols, col, address))))

    def shown_rows(self, rows: Ints) -> Ints:
        """Source rows, all of them kept, as shown ones."""
        return rows if self.rows is None else np.searchsorted(self.rows, rows)

    def shown_cols(self, cols: Ints) -> Ints:
        """Source columns, all of them kept, as shown ones."""
        return cols if self.cols is None else np.searchsorted(self.cols, cols)


def _inner(kept: Ints | None, shown: int, address: str) -> int:
    if kept is None:
        return shown
    if shown >= len(kept):
        raise InputError(
            f"{address!r} is not in the text: it shows {len(kept)} rows or columns there, "
            f"up to row {len(kept)} or column {column_name(max(len(kept) - 1, 0))}"
        )
    return int(kept[shown])


def _outer(kept: Ints | None, place: int, address: str) -> int:
    if kept is None:
        return place
    at = int(np.searchsorted(kept, place))
    if at == len(kept) or kept[at] != place:
        raise InputError(f"{address!r} was left out of the text")
    return at
