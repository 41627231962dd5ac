"""SpQR: the few weights that no grid serves are kept apart, so that the rest can have small groups and few bits.

Source: Dettmers et al. 2023, "SpQR: A Sparse-Quantized Representation for Near-Lossless LLM Weight Compression" (arXiv
2306.03078). Deviations: grids are found before the loop, so that any order of columns keeps consecutive groups; zero
points are stored as codes, which is smaller than the paper's second level; a scale takes the best of its eight levels
instead of the nearest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.generate.weights.columns import Plan
from ctxcomp.generate.weights.gptq import ColumnMethod, GridRounder
from ctxcomp.generate.weights.grid import Grid, columns_per_group, find_grid, grouped, ungrouped
from ctxcomp.generate.weights.grid_search import choose, group_error, search_grid
from ctxcomp.generate.weights.tensors import Outliers, QuantizedWeight, ScaleLevels

if TYPE_CHECKING:
    from ctxcomp.generate.weights.statistics import LayerStatistics

NARROWEST_STEP = 2.0**-24
"""The smallest number of float16."""


@dataclass(frozen=True)
class Spqr(ColumnMethod):
    """GPTQ's loop with outliers in 16 bits and scales that are quantized themselves.

    Parameters
    ----------
    group_size: the paper's is 16.
    outlier_threshold: a weight is kept apart where its error counts more than so many times the mean variance of a
        column's weights, weighted alike; higher keeps fewer. At the paper's 0.2 and 3 bits, 2 % of the weights of a
        small trained model are kept apart, and cost a whole bit per weight; at 0.5 it is 0.3 %.
    scale_bits: bits of a scale, 2 to 8; 0 stores scales in float16.
    scale_rows: rows whose scales for a group share a range.
    """

    group_size: int = 16
    outlier_threshold: float = 0.5
    scale_bits: int = 3
    scale_rows: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outlier_threshold <= 0:
            raise InputError(f"outlier_threshold must be positive, got {self.outlier_threshold}")
        if self.scale_bits != 0 and not 2 <= self.scale_bits <= 8:
            raise InputError(f"scale_bits must be 2 to 8, or 0 for scales in float16, got {self.scale_bits}")
        if self.scale_rows < 1:
            raise InputError(f"scale_rows must be 1 or more, got {self.scale_rows}")

    def quantize_weight(self, weight: Tensor, statistics: LayerStatistics) -> QuantizedWeight:
        """Quantize a weight [N, K], float32."""
        size = columns_per_group(self.group_size, weight.shape[1])
        plan = self.plan(statistics)
        limit = self.outlier_threshold * float((weight.var(0, correction=0) * plan.importance).mean())
        apart = self._likely_outliers(weight, plan.importance, limit)
        inner, importance = weight.masked_fill(apart, 0), plan.importance * ~apart
        grid = search_grid(inner, self.bits, size, importance, symmetric=self.symmetric)
        levels = None
        if self.scale_bits:
            grid, levels = self._levelled(grid, inner, importance)
        columns = torch.arange(weight.shape[1], device=weight.device)
        rounder = _OutlierRounder(plan, grid, columns // size, limit)
        codes = rounder.run(weight, size)
        return QuantizedWeight(
            codes, grid.scales, grid.zeros, self.bits, size, outliers=rounder.outliers(), scale_levels=levels
        )

    def _likely_outliers(self, weight: Tensor, importance: Tensor, limit: float) -> Tensor:
        """Which weights cost their group more than ``limit``: the paper's leave-one-out test, bool [N, K].

        Leaving one out changes the grid only if it is the group's highest or lowest, so that two trials do.
        """
        size = columns_per_group(self.group_size, weight.shape[1])
        groups, weights = grouped(weight, size), grouped(importance[None], size)

        def errors(values: Tensor) -> Tensor:
            flat = ungrouped(values, weight.shape[1])
            grid = find_grid(flat, self.bits, size, symmetric=self.symmetric)
            return (grouped(grid.decode(grid.encode(flat)), size) - values).square_() * weights

        all_errors = errors(groups)
        found = all_errors > limit
        for extreme in (groups.argmax(-1, keepdim=True), groups.argmin(-1, keepdim=True)):
            without = errors(groups.scatter(-1, extreme, 0))
            gain = (all_errors.sum(-1) - without.sum(-1))[..., None]
            found.scatter_(-1, extreme, gain > limit)
        return ungrouped(found, weight.shape[1])

    def _levelled(self, grid: Grid, weight: Tensor, importance: Tensor) -> tuple[Grid, ScaleLevels]:
        """The grid with each scale at that level of its rows' range that serves its group best."""
        rows, highest = self.scale_rows, 2**self.scale_bits - 1
        scales = grid.scales.float()
        missing = -len(scales) % rows
        blocks = torch.cat([scales, scales[-1:].expand(missing, -1)]).view(-1, rows, scales.shape[1])
        base = blocks.amin(1).to(torch.float16)
        step = ((blocks.amax(1) - base.float()) / highest).clamp(min=NARROWEST_STEP).to(torch.float16)
        best: Grid | None = None
        codes, lowest = torch.zeros_like(scales, dtype=torch.uint8), torch.full_like(scales, torch.inf)
        for code in range(highest + 1):
            level = ScaleLevels(torch.full_like(codes, code), base, step, self.scale_bits, rows)
            tried = Grid(level.decode(), grid.zeros, grid.bits, grid.group_size)
            error = group_error(tried, weight, importance)
            better = error < lowest
            lowest, codes = torch.minimum(error, lowest), codes.masked_fill(better, code)
            best = tried if best is None else choose(better, tried, best)
        return best or grid, ScaleLevels(codes, base, step, self.scale_bits, rows)


class _OutlierRounder(GridRounder):
    """Keeps a weight as it is where rounding it would cost more than ``limit``."""

    def __init__(self, plan: Plan, grid: Grid, groups: Tensor, limit: float) -> None:
        super().__init__(plan, grid, groups)
        self.limits = limit / plan.importance[plan.order]
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def round(self, position: int, weight: Tensor) -> Tensor:
        """What the column [N] at this position becomes."""
        rounded = super().round(position, weight)
        rows = ((weight - rounded).square() > self.limits[position]).nonzero()[:, 0]
        if len(rows):
            values = weight[rows].to(torch.float16)
            self.kept.append((rows, self.plan.order[position].expand_as(rows), values))
            rounded[rows] = values.float()
        return rounded

    def outliers(self) -> Outliers | None:
        """The weights kept apart, row by row."""
        if not self.kept:
            return None
        rows, columns, values = (torch.cat(parts) for parts in zip(*self.kept, strict=True))
        order = (rows * len(self.plan.order) + columns).argsort()
        small = (
            torch.int16 if max(len(self.codes), len(self.plan.order)) <= torch.iinfo(torch.int16).max else torch.int32
        )
        return Outliers(rows[order].to(small), columns[order].to(small), values[order])
