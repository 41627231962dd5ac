"""Cells with equal labels as few rectangles: exact, every cell in one, no cell that is not there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxcomp.tables.grid import Ints


@dataclass(frozen=True, slots=True)
class Rectangles:
    """Rectangles of equal label: parallel arrays int64 ``[n]``, both ends included, ordered by label."""

    label: Ints
    top: Ints
    left: Ints
    bottom: Ints
    right: Ints

    def __len__(self) -> int:
        return len(self.label)


def cover(row: Ints, col: Ints, label: Ints) -> Rectangles:
    """Disjoint rectangles that hold exactly the given cells, none across labels.

    Runs down the columns are joined with equal runs beside them, and runs along the rows with equal runs below; each
    label takes the way that gives it fewer rectangles. Sorting only, so any shape and size is fine.

    Parameters
    ----------
    row, col: int64 ``[n]``, no cell twice.
    label: int64 ``[n]``, >= 0.

    Source
    ------
    Tian et al., "SpreadsheetLLM" (2024), whose flood fill emits the bounding box of a region: wrong where the region is
    not a rectangle, and recursive. This replaces it.
    """
    down = _merged(row, col, label)
    flipped = _merged(col, row, label)
    along = Rectangles(flipped.label, flipped.left, flipped.top, flipped.right, flipped.bottom)
    size = int(label.max()) + 1 if len(label) else 0
    better = np.bincount(along.label, minlength=size) < np.bincount(down.label, minlength=size)
    chosen = [(down, ~better[down.label]), (along, better[along.label])]
    columns = [
        np.concatenate([getattr(found, name)[mine] for found, mine in chosen])
        for name in ("label", "top", "left", "bottom", "right")
    ]
    order = np.lexsort((columns[2], columns[1], columns[0]))
    return Rectangles(*(column[order] for column in columns))


def _merged(row: Ints, col: Ints, label: Ints) -> Rectangles:
    order = np.lexsort((row, col, label))
    row, col, label = row[order], col[order], label[order]
    first = _breaks((label, 0), (col, 0), (row, 1))
    last = np.append(first[1:], np.ones(min(len(first), 1), bool))
    top, bottom, col, label = row[first], row[last], col[first], label[first]
    order = np.lexsort((col, bottom, top, label))
    top, bottom, col, label = top[order], bottom[order], col[order], label[order]
    first = _breaks((label, 0), (top, 0), (bottom, 0), (col, 1))
    last = np.append(first[1:], np.ones(min(len(first), 1), bool))
    return Rectangles(label[first], top[first], col[first], bottom[first], col[last])


def _breaks(*steps: tuple[Ints, int]) -> NDArray[np.bool_]:
    """Where a run begins: an array does not go on by its step."""
    begins = np.ones(len(steps[0][0]), bool)
    if len(begins):
        begins[1:] = np.any([np.diff(values) != step for values, step in steps], axis=0)
    return begins
