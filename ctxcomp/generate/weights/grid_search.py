"""Grids whose ranges were shrunk to where the weighted squared error is least."""

from __future__ import annotations

import torch
from torch import Tensor

from ctxcomp.generate.weights.grid import Grid, columns_per_group, find_grid, grouped

SHRINKS = 30
NARROWEST = 0.5
"""So many ranges are tried, from a group's own to half of it."""


def search_grid(weight: Tensor, bits: int, group_size: int, importance: Tensor, *, symmetric: bool = False) -> Grid:
    """The grid of each group whose weighted squared rounding error is least.

    Parameters
    ----------
    weight: [N, K], float32.
    group_size: columns per group; 0 for one group per row.
    importance: [K] or [N, K], >= 0, the weight of each squared error.
    """
    size = columns_per_group(group_size, weight.shape[1])
    best = find_grid(weight, bits, size, symmetric=symmetric)
    lowest = group_error(best, weight, importance)
    for shrink in torch.linspace(1, NARROWEST, SHRINKS)[1:].tolist():
        grid = find_grid(weight * shrink, bits, size, symmetric=symmetric)
        error = group_error(grid, weight, importance)
        best, lowest = choose(error < lowest, grid, best), torch.minimum(error, lowest)
    return best


def group_error(grid: Grid, weight: Tensor, importance: Tensor) -> Tensor:
    """The weighted squared error of rounding a weight [N, K] to the grid, for each group, [N, G]."""
    return grouped((grid.decode(grid.encode(weight)) - weight).square_() * importance, grid.group_size).sum(-1)


def choose(first: Tensor, a: Grid, b: Grid) -> Grid:
    """The groups of ``a`` where ``first`` [N, G], else those of ``b``."""
    zeros = None if a.zeros is None or b.zeros is None else torch.where(first, a.zeros, b.zeros)
    return Grid(torch.where(first, a.scales, b.scales), zeros, a.bits, a.group_size)
