"""Which rows and columns of a sheet to show when not all fit, in the order in which they go last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctxcomp.tables.anchors import Anchors, find_anchors
from ctxcomp.tables.grid import Ints, Sheet
from ctxcomp.tables.relevance import Floats, column_relevance, row_relevance

RELEVANT = 0.5
"""A row or column is relevant with this share of the best one's score."""
MAX_RELEVANT = 40
"""Rows, or columns, that join those near anchors because the question names them."""
_HEADER, _LABEL, _NAMED, _BASE = 3.0, 3.0, 10.0, 0.2


@dataclass(frozen=True)
class Plan:
    """The rows and columns of a sheet with their worth.

    Parameters
    ----------
    rows, cols: int64, sorted: where the sheet has cells.
    row_worth, col_worth: higher goes later; relevance is in [0, 4], a header is worth 3, nearness to an anchor up to 1.
    row_score, col_score, text_score: relevance to the question alone, of texts too, ``[texts]``.
    """

    sheet: Sheet
    anchors: Anchors
    rows: Ints
    cols: Ints
    row_worth: Floats
    col_worth: Floats
    row_score: Floats
    col_score: Floats
    text_score: Floats

    def worth(self, kept: Sheet) -> float:
        """What some of the cells are worth together: most where a good row meets a good column or names itself."""
        row = self.row_worth[np.searchsorted(self.rows, kept.row)]
        col = self.col_worth[np.searchsorted(self.cols, kept.col)]
        return float((row * (_BASE + col) + _NAMED * _share(self.text_score)[kept.text]).sum())

    def structure(self, k: int) -> tuple[Ints, Ints]:
        """The rows and columns near anchors, and those that the question names."""
        rows, cols = self.anchors.near(self.sheet, k)
        return (
            np.union1d(rows, self.rows[_relevant(self.row_score)]),
            np.union1d(cols, self.cols[_relevant(self.col_score)]),
        )

    def column_sets(self, k: int) -> list[Ints]:
        """Ever fewer columns: all; those of the structure; those of labels and, if it names values, of the question."""
        sets = [self.cols, self.structure(k)[1]]
        labels = np.union1d(self.anchors.label_cols, self._matched_cols())
        named = np.union1d(labels, self.cols[_relevant(self.col_score)])
        if len(named) > len(labels):
            sets.append(named)
        return [cols for i, cols in enumerate(sets) if i == 0 or len(cols) < len(sets[i - 1])]

    def _matched_cols(self) -> Ints:
        """The columns that make the best rows the best: a reader has to see why they are shown."""
        score = np.where(np.isin(self.rows, self.anchors.header_rows), 0.0, self.row_score)
        best = self.rows[(score >= 0.99 * score.max()) & (score > 0)]
        shown = np.isin(self.sheet.row, best) & (self.text_score[self.sheet.text] > 0)
        return np.unique(self.sheet.col[shown])


def plan(sheet: Sheet, query: str) -> Plan:
    """Weigh the rows and columns of a sheet that has cells."""
    anchors = find_anchors(sheet)
    rows, cols = np.unique(sheet.row), np.unique(sheet.col)
    row_score, text_score = row_relevance(sheet, rows, query)
    col_score = column_relevance(sheet, cols, query, anchors.header_rows)
    headers = np.isin(rows, anchors.header_rows)
    needed = (row_score >= 0.99 * row_score.max()) & (row_score > 0)
    own = np.zeros(len(rows), bool)
    for table in anchors.tables:
        inside = (rows >= table.top) & (rows <= table.bottom)
        if (needed & inside).any():
            own |= headers & inside
    row_worth = _share(row_score) * 4 + _nearness(rows, anchors.rows)
    row_worth += np.where(own, _HEADER, np.where(headers, 0.0 if own.any() else _HEADER, 0.0))
    col_worth = _share(col_score) * 4 + _nearness(cols, anchors.cols) + _LABEL * np.isin(cols, anchors.label_cols)
    return Plan(sheet, anchors, rows, cols, row_worth, col_worth, row_score, col_score, text_score)


def best_first(worth: Floats) -> Ints:
    """Positions from the highest worth to the lowest; of equal ones the earlier first."""
    return np.argsort(-worth, kind="stable")


def _share(score: Floats) -> Floats:
    return score / score.max() if score.any() else score


def _relevant(score: Floats) -> Ints:
    good = np.flatnonzero((score >= RELEVANT * score.max()) & (score > 0)) if len(score) else np.empty(0, np.int64)
    return np.sort(good[best_first(score[good])[:MAX_RELEVANT]])


def _nearness(place: Ints, anchors: Ints) -> Floats:
    """1 at an anchor, falling to 0 with the distance."""
    after = np.searchsorted(anchors, place)
    above = np.abs(anchors[np.minimum(after, len(anchors) - 1)] - place)
    below = np.abs(place - anchors[np.maximum(after - 1, 0)])
    nearness: Floats = 1.0 / (1.0 + np.minimum(above, below))
    return nearness
