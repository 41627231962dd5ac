"""Cutting a page's tokens into a given number of neighbouring cells."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctxcomp.visual.layout import Page
from ctxcomp.visual.sharing import share


def line_cells(tokens: int, cells: int) -> Tensor:
    """Runs of neighbours in reading order, as even as they can be: the cell of each token, int64 ``[tokens]``."""
    return torch.div(torch.arange(tokens) * cells, max(tokens, 1), rounding_mode="floor")


def grid_cells(page: Page, tokens: Tensor, cells: int) -> Tensor:
    """Near-square cells, exactly ``cells`` of them: the cell of each of ``tokens``, int64 ``[m]``.

    The tokens of a crop are cut into bands of rows and each band into runs of its reading order by columns. Several
    crops share the cells by their sizes.
    """
    crops = page.crops[tokens]
    numbers = torch.unique(crops).tolist()
    places = [torch.nonzero(crops == number).flatten() for number in numbers]
    counts = share(cells, [len(p) for p in places], [len(p) for p in places])
    found = torch.empty(len(tokens), dtype=torch.long)
    first = 0
    for place, count in zip(places, counts, strict=True):
        if count:
            found[place] = first + _crop_cells(page, tokens[place], count)
        else:
            found[place] = -1
        first += count
    return found


def _crop_cells(page: Page, tokens: Tensor, cells: int) -> Tensor:
    rows, columns = page.rows[tokens], page.columns[tokens]
    order = torch.argsort(rows * (int(columns.max()) + 1) + columns, stable=True)
    height, width = len(torch.unique(rows)), len(torch.unique(columns))
    bands = min(height, max(math.ceil(cells / width), round(math.sqrt(cells * height / width)), 1), cells)
    band = line_cells(height, bands)[torch.searchsorted(torch.unique(rows), rows)]
    found = torch.empty(len(tokens), dtype=torch.long)
    sizes = [int((band == b).sum()) for b in range(bands)]
    first = 0
    for b, count in enumerate(share(cells, [1.0] * bands, sizes, [1] * bands)):
        mine = order[band[order] == b]
        # Down the columns first, so that a cell is a block of its band and not a strip of its rows.
        mine = mine[torch.argsort(columns[mine] * (height + 1) + rows[mine], stable=True)]
        found[mine] = first + line_cells(len(mine), count)
        first += count
    return found


def centres(page: Page, tokens: Tensor, cells: Tensor, count: int) -> Tensor:
    """The token nearest to the middle of each cell, int64 ``[count]``."""
    place = torch.stack([page.rows[tokens], page.columns[tokens]], dim=1).double()
    chosen = []
    for cell in range(count):
        mine = torch.nonzero(cells == cell).flatten()
        away = (place[mine] - place[mine].mean(0)).square().sum(1)
        chosen.append(tokens[mine[int(away.argmin())]])
    return torch.stack(chosen) if chosen else torch.empty(0, dtype=torch.long)
