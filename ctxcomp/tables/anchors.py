"""Structural anchors: the rows and columns at the borders of tables, and what stands near them.

A row (or column) that differs from the one before it in types, style or borders is a boundary. Boundaries make bands;
any run of bands across any run of column bands is a candidate table; candidates are filtered by size, density and
edges, overlaps are resolved in favour of the better one, and the borders and header rows of the survivors are the
anchors. Everything works on the cells that exist, so a sheet with a cell in XFD1048576 costs no more than another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxcomp.tables.grid import Ints, Kind, Mask, Range, Sheet

DIFFERENT = 0.5
"""Neighbours whose cells agree less than this are different."""
MAX_ROW_BANDS, MAX_COLUMN_BANDS = 40, 16
"""Only so many bands make candidates: 40 * 41 / 2 * 16 * 17 / 2 = 111,520 boxes, looked at together."""
HEADER_ROWS = 6
"""A header has at most so many rows."""
RARE, MAX_GAPS = 2, 8
"""So few empty stretches part tables whatever stands beside them; at most so many make anchors."""
MIN_DENSITY = 0.35
"""Share of a table's cells (of rows and columns that are not empty) that must be filled."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Anchors:
    """Rows and columns at borders: int64, sorted, zero-based; and the tables they belong to, best first."""

    rows: Ints
    cols: Ints
    tables: tuple[Range, ...]
    header_rows: Ints
    label_cols: Ints

    def near(self, sheet: Sheet, k: int) -> tuple[Ints, Ints]:
        """The rows and the columns of the sheet's cells that are at most ``k`` from an anchor."""
        return _near(np.unique(sheet.row), self.rows, k), _near(np.unique(sheet.col), self.cols, k)


def find_anchors(sheet: Sheet) -> Anchors:
    """The anchors of a sheet; none for an empty one.

    Source
    ------
    Tian et al., "SpreadsheetLLM" (2024), appendix C. Deviations: candidates come from at most `MAX_ROW_BANDS` and
    `MAX_COLUMN_BANDS` bands, not from all pairs of rows and columns; the outer border of the sheet, and both sides of
    the emptiest gaps, are anchors too.
    """
    used = sheet.used
    if used is None:
        none = np.empty(0, np.int64)
        return Anchors(none, none, (), none, none)
    rows, row_rank = np.unique(sheet.row, return_inverse=True)
    cols, col_rank = np.unique(sheet.col, return_inverse=True)
    row_agreement, col_agreement = _agreement(row_rank, col_rank, sheet), _agreement(col_rank, row_rank, sheet)
    row_bands = _bands(row_agreement, rows, MAX_ROW_BANDS)
    col_bands = _bands(col_agreement, cols, MAX_COLUMN_BANDS)
    tables = _tables(sheet, row_rank, col_rank, row_bands, col_bands)
    headers = [_header_end(sheet, row_rank, col_rank, box) for box in tables]
    tops = [range(box.top, end + 1) for box, end in zip(tables, headers, strict=True)]
    row_ranks = {0, len(rows) - 1}.union(
        *({box.top, end, min(end + 1, box.bottom), box.bottom} for box, end in zip(tables, headers, strict=True))
    )
    col_ranks = {0, len(cols) - 1}.union(*({box.left, box.right} for box in tables))
    row_ranks |= _gap_sides(rows, row_agreement)
    col_ranks |= _gap_sides(cols, col_agreement)
    return Anchors(
        rows[sorted(row_ranks)],
        cols[sorted(col_ranks)],
        tuple(Range(int(rows[b.top]), int(cols[b.left]), int(rows[b.bottom]), int(cols[b.right])) for b in tables),
        rows[sorted({0}.union(*tops))],
        cols[sorted({0} | {box.left for box in tables})],
    )


def _near(present: Ints, anchors: Ints, k: int) -> Ints:
    if not len(anchors):
        return present[:0]
    after = np.searchsorted(anchors, present)
    above = np.abs(anchors[np.minimum(after, len(anchors) - 1)] - present)
    below = np.abs(present - anchors[np.maximum(after - 1, 0)])
    near: Ints = present[np.minimum(above, below) <= k]
    return near


def _agreement(line: Ints, across: Ints, sheet: Sheet) -> Floats:
    """How much each line agrees with the one before it, ``[lines]`` in [0, 1]: equal types count two
    thirds, and with equal style all.

    Parameters
    ----------
    line, across: int64 ``[n]``, ranks of each cell's row and column, or the other way round.
    """
    order = np.lexsort((across, line))
    line, across = line[order], across[order]
    kind, style = _classes(sheet)[order], sheet.style[order]
    width = int(across.max()) + 1
    keys = line * width + across
    before = np.searchsorted(keys, keys - width)
    before = np.minimum(before, len(keys) - 1)
    paired = keys[before] == keys - width
    same = np.where(paired & (kind[before] == kind), 2.0 + (style[before] == style), 0.0)
    lines = int(line[-1]) + 1
    sizes = np.bincount(line, minlength=lines)
    larger = np.maximum(sizes, np.append(sizes[0], sizes[:-1]))
    agreement: Floats = np.bincount(line, weights=same, minlength=lines) / (3.0 * larger)
    agreement[0] = 0.0
    return agreement


def _classes(sheet: Sheet) -> Ints:
    """What types are compared by: text; numbers, errors and formulas alike; dates; booleans."""
    table = np.zeros(len(Kind), np.int64)
    table[[Kind.NUMBER, Kind.ERROR, Kind.FORMULA]] = 1
    table[Kind.DATE], table[Kind.BOOL] = 2, 3
    return table[sheet.kind]


def _bands(agreement: Floats, place: Ints, most: int) -> Ints:
    """The first line of each band, ranks; the strongest boundaries if there are too many."""
    gap = np.append(0, np.diff(place) - 1)
    strength = (DIFFERENT - agreement) + 0.05 * np.minimum(gap, 4)
    starts = np.flatnonzero(strength > 0)
    if len(starts) > most:
        # Ties go to the ends of the sheet, where the header and the notes are.
        edge = np.minimum(starts, len(place) - 1 - starts)
        starts = np.sort(starts[np.lexsort((edge, -strength[starts]))[:most]])
    return np.unique(np.append(0, starts))


def _gap_sides(place: Ints, agreement: Floats) -> set[int]:
    """Both sides of the gaps that part something, ranks: wide ones, those between different lines, rare ones."""
    gap = np.diff(place) - 1
    gaps = np.flatnonzero(gap)
    differ = agreement[1:] < DIFFERENT
    if len(gaps) > RARE:
        gaps = np.flatnonzero((gap >= 2) | ((gap >= 1) & differ))
    strength = gap[gaps] + 4 * differ[gaps]
    gaps = gaps[np.argsort(-strength, kind="stable")[:MAX_GAPS]]
    return set(gaps.tolist()) | set((gaps + 1).tolist())


def _tables(sheet: Sheet, row: Ints, col: Ints, row_bands: Ints, col_bands: Ints) -> list[Range]:
    """The tables, in ranks of rows and columns, best first."""
    row_ends, col_ends = np.append(row_bands[1:], row.max() + 1), np.append(col_bands[1:], col.max() + 1)
    counts = np.zeros((len(row_bands) + 1, len(col_bands) + 1))
    band = np.searchsorted(row_bands, row, side="right"), np.searchsorted(col_bands, col, side="right")
    np.add.at(counts, band, 1.0)
    sums = counts.cumsum(0).cumsum(1)
    a, b = np.triu_indices(len(row_bands))
    c, d = np.triu_indices(len(col_bands))
    a, b, c, d = (x.ravel() for x in (*np.broadcast_arrays(a[:, None], b[:, None], c, d),))
    filled = _inside(sums, a, b, c, d)
    height, width = row_ends[b] - row_bands[a], col_ends[d] - col_bands[c]
    density = filled / (height * width)
    boxes = np.column_stack([row_bands[a], col_bands[c], row_ends[b] - 1, col_ends[d] - 1])
    good = (height >= 2) & (width >= 2) & (density >= MIN_DENSITY)
    good &= _edges_hold(sums, (a, b, c, d), row_ends - row_bands, col_ends - col_bands)
    if not good.any():
        good = filled == filled.max()
    # A table is worth its cells, and less the more holes it has: a title over a table makes a sparse first band.
    worth = filled[good] * density[good] ** 2
    return _without_overlap(boxes[good][np.argsort(-worth, kind="stable")])


def _inside(sums: Floats, a: Ints, b: Ints, c: Ints, d: Ints) -> Floats:
    inside: Floats = sums[b + 1, d + 1] - sums[a, d + 1] - sums[b + 1, c] + sums[a, c]
    return inside


def _edges_hold(sums: Floats, box: tuple[Ints, Ints, Ints, Ints], heights: Ints, widths: Ints) -> Mask:
    """Whether each of the four outermost bands of a candidate is filled to a third of what the table is.

    Parameters
    ----------
    box: the first and last row band and the first and last column band of each candidate.
    heights, widths: of the bands.
    """
    a, b, c, d = box
    height = np.append(0, heights.cumsum())[b + 1] - np.append(0, heights.cumsum())[a]
    width = np.append(0, widths.cumsum())[d + 1] - np.append(0, widths.cumsum())[c]
    least = _inside(sums, a, b, c, d) / (height * width) / 3
    holds = np.ones(len(a), bool)
    for rows, cols, area in (
        ((a, a), (c, d), heights[a] * width),
        ((b, b), (c, d), heights[b] * width),
        ((a, b), (c, c), height * widths[c]),
        ((a, b), (d, d), height * widths[d]),
    ):
        holds &= _inside(sums, *rows, *cols) >= least * area
    return holds


def _without_overlap(boxes: Ints) -> list[Range]:
    """Best first, each one that touches no better one."""
    chosen: list[Range] = []
    while len(boxes):
        best = boxes[0]
        chosen.append(Range(*best.tolist()))
        apart = (boxes[:, 0] > best[2]) | (boxes[:, 2] < best[0]) | (boxes[:, 1] > best[3]) | (boxes[:, 3] < best[1])
        boxes = boxes[apart]
    return chosen


def _header_end(sheet: Sheet, row: Ints, col: Ints, box: Range) -> int:
    """The rank of the last header row of a table: rows from its top that hold text over rows that hold more values."""
    last = min(box.top + HEADER_ROWS, box.bottom)
    first, stop = np.searchsorted(row, [box.top, last + 1])
    inside = (col[first:stop] >= box.left) & (col[first:stop] <= box.right)
    rows, values = row[first:stop][inside] - box.top, _classes(sheet)[first:stop][inside] > 0
    n = last - box.top + 1
    share = np.bincount(rows, weights=values, minlength=n) / np.maximum(np.bincount(rows, minlength=n), 1)
    body = np.flatnonzero(share > DIFFERENT)
    if not len(body) or body[0] == 0:
        return box.top
    return box.top + int(body[0]) - 1
