"""The search for what of a sheet fits into a budget; every text that is returned was counted as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ctxcomp.counting import TokenCounter
from ctxcomp.errors import BudgetError, InputError
from ctxcomp.fields import check_fields
from ctxcomp.tables.addresses import AddressMap
from ctxcomp.tables.choose import Plan, best_first, plan
from ctxcomp.tables.datatypes import labels
from ctxcomp.tables.encode import Layout, encode, encode_formats
from ctxcomp.tables.grid import Ints, Sheet
from ctxcomp.types import Budget

CHARACTERS_PER_TOKEN = 20
"""A text with more characters than this for each token of the budget is taken not to fit, without counting it."""
COUNT_BOTH = 20_000
"""Characters up to which the shorter of two layouts is found by its tokens, and not by its characters."""


@dataclass(frozen=True, kw_only=True)
class SheetOptions:
    """How a sheet is written.

    Parameters
    ----------
    k: rows and columns this near to an anchor belong to the structure, >= 0; the paper's best is 4.
    aggregate: formats and types may stand for values (module 3): for questions about structure, where values are, not
        what they are. None: only without a query.
    remap: number what is left of the rows and columns without gaps, as in the paper; the result's ``addresses`` map
        back. A sheet that shows formulas keeps its own addresses, since formulas name them.
    addressed: write addresses at all; without them rows are plain lines.
    title: begin with the sheet's name, if it has one.
    """

    k: int = 4
    aggregate: bool | None = None
    remap: bool = True
    addressed: bool = True
    title: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        if self.k < 0:
            raise InputError(f"k must be 0 or more, got {self.k}")


@dataclass(frozen=True, eq=False, slots=True)
class Attempt:
    """A text that shows some cells of the sheet, with its tokens; see `CompressedSheet`."""

    text: str
    body: str
    layout: Layout | Literal["formats"]
    addresses: AddressMap
    kept: Sheet
    modules: tuple[str, ...]
    tokens: int


def sheet_text(sheet: Sheet, *, title: bool = True, addressed: bool = True) -> str:
    """The whole sheet as lines of rows under its name: what compression is compared with."""
    body = encode(sheet, "rows" if addressed else "bare")
    return "\n".join(part for part in (_title(sheet, AddressMap()) if title else "", body) if part)


def _title(sheet: Sheet, addresses: AddressMap) -> str:
    """The name, and the used rectangle where addresses are the sheet's own."""
    name = " ".join(sheet.name.split())
    if not name:
        return ""
    extent = f" {sheet.used}" if sheet.used and addresses.rows is None else " (empty)" if not len(sheet) else ""
    return f"[{name}]{extent}{' (hidden)' if sheet.hidden else ''}"


class Packing:
    """One sheet on its way into one budget.

    Parameters
    ----------
    query: the question; "" for none.
    """

    def __init__(self, sheet: Sheet, query: str, counter: TokenCounter, options: SheetOptions) -> None:
        self.sheet, self.query, self.counter, self.options = sheet, query, counter, options
        formats = options.aggregate if options.aggregate is not None else not query.strip()
        self.labels = labels(sheet) if formats and options.addressed and len(sheet) else None
        self.tokens_in = counter.count(sheet_text(sheet, title=options.title, addressed=options.addressed))
        self.width = int(sheet.col.max()) + 1 if len(sheet) else 1
        self.room: int | None = None
        self.terse = False

    def run(self, budget: Budget | None) -> Attempt:
        """The best that fits.

        Raises
        ------
        BudgetError: not even one cell fits.
        """
        self.room = None if budget is None else budget.resolve(self.tokens_in)
        if len(self.sheet) and self.room is None:
            kept = self._structure(plan(self.sheet, self.query))
            return self._attempt(kept, ("anchors",), formats=self.labels is not None)
        whole = self._attempt(self.sheet, ())
        if self._fits(whole):
            return whole
        if not len(self.sheet):
            raise BudgetError(f"the name of an empty sheet has {whole.tokens} tokens and the budget is {self.room}")
        weighed = plan(self.sheet, self.query)
        if self.labels is not None:
            for kept, modules in ((self.sheet, ()), (self._structure(weighed), ("anchors",))):
                attempt = self._attempt(kept, modules, formats=True)
                if self._fits(attempt):
                    return attempt
        return self._fill(weighed)

    def _structure(self, weighed: Plan) -> Sheet:
        rows, cols = weighed.structure(self.options.k)
        return self.sheet.where(np.isin(self.sheet.row, rows) & np.isin(self.sheet.col, cols))

    def _fill(self, weighed: Plan) -> Attempt:
        """The worthiest rows that fit: in all columns if those needed fit so, else in fewer."""
        attempts = [self._most_rows(weighed, cols) for cols in weighed.column_sets(self.options.k)]
        found = [attempt for attempt in attempts if attempt is not None]
        if found:
            return max(found, key=lambda attempt: weighed.worth(attempt.kept))
        least = self._most_columns(weighed)
        if self._fits(least):
            return least
        if not self.terse:
            self.terse = True
            return self._fill(weighed)
        raise BudgetError(
            f"sheet {self.sheet.name!r:.80}: one cell with its address has {least.tokens} tokens and the budget is "
            f"{self.room}: raise the budget"
        )

    def _most_rows(self, weighed: Plan, cols: Ints) -> Attempt | None:
        """The attempt with the most rows that fits, worthiest first."""
        sheet = self.sheet.where(np.isin(self.sheet.col, cols))
        rank = np.searchsorted(weighed.rows, sheet.row)
        order = best_first(weighed.row_worth)
        order = order[np.isin(order, rank)]
        place = np.full(len(weighed.rows), len(order))
        place[order] = np.arange(len(order))
        return self._search(sheet, place[rank])

    def _most_columns(self, weighed: Plan) -> Attempt:
        """The worthiest row in as many columns as fit, worthiest first; or in one that does not fit."""
        row = weighed.rows[best_first(weighed.row_worth)[0]]
        sheet = self.sheet.where(self.sheet.row == row)
        worth = weighed.col_worth[np.searchsorted(weighed.cols, sheet.col)]
        place = np.empty(len(sheet), np.int64)
        place[best_first(worth)] = np.arange(len(sheet))
        return self._search(sheet, place) or self._attempt(sheet.where(place == 0), ("blocks",))

    def _search(self, sheet: Sheet, place: Ints) -> Attempt | None:
        """The attempt with the most lines that fits.

        Parameters
        ----------
        place: int64 ``[n]``, for each cell its line's place in the order in which lines are taken.
        """
        sizes = np.bincount(place, weights=np.array([len(t) for t in sheet.texts])[sheet.text] + 1.0)
        low, best = 0, None
        high = int(np.searchsorted(sizes.cumsum(), self._most_characters(), side="right")) + 1
        while high - low > 1:
            middle = (low + high) // 2
            attempt = self._attempt(sheet.where(place < middle), ("blocks",), formats=self.labels is not None)
            if self._fits(attempt):
                low, best = middle, attempt
            else:
                high = middle
        return best

    def _attempt(self, kept: Sheet, modules: tuple[str, ...], *, formats: bool = False) -> Attempt:
        whole = len(kept) == len(self.sheet)
        addresses = AddressMap()
        if self.options.remap and not whole and not self.sheet.formulas:
            addresses = AddressMap(np.unique(kept.row), np.unique(kept.col))
        title = _title(self.sheet, addresses) if self.options.title and not self.terse else ""
        mark = "" if whole else self._mark(len(self.sheet) - len(kept))
        tried = [
            (layout, body, "\n".join(part for part in (title, body, mark) if part))
            for layout, body in self._bodies(kept, addresses, formats)
        ]
        if max(len(text) for *_, text in tried) > COUNT_BOTH:
            tried = [min(tried, key=lambda one: len(one[2]))]
        counts = [self._count(text) for *_, text in tried]
        best = int(np.argmin(counts))
        layout, body, text = tried[best]
        return Attempt(text, body, layout, addresses, kept, (layout, *modules), counts[best])

    def _mark(self, missing: int) -> str:
        return f"… {missing} of {len(self.sheet)} cells left out" if self.options.addressed and not self.terse else "…"

    def _bodies(
        self, kept: Sheet, addresses: AddressMap, formats: bool
    ) -> list[tuple[Layout | Literal["formats"], str]]:
        if formats and self.labels is not None:
            codes, names = self.labels
            place = np.isin(self.sheet.row * self.width + self.sheet.col, kept.row * self.width + kept.col)
            return [("formats", encode_formats(kept, codes[place], names, addresses))]
        if not self.options.addressed:
            return [("bare", encode(kept, "bare"))]
        return [("rows", encode(kept, "rows", addresses)), ("index", encode(kept, "index", addresses))]

    def _most_characters(self) -> float:
        return np.inf if self.room is None else CHARACTERS_PER_TOKEN * self.room + 1000

    def _count(self, text: str) -> int:
        """Tokens; for a text that is far too long, a number over the budget."""
        if self.room is not None and len(text) > self._most_characters():
            return max(self.room + 1, len(text) // CHARACTERS_PER_TOKEN)
        return self.counter.count(text)

    def _fits(self, attempt: Attempt) -> bool:
        return self.room is None or attempt.tokens <= self.room
