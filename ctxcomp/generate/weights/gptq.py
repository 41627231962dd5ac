"""GPTQ: round the columns one after another, and let the rest make up for each error.

Source: Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (arXiv
2210.17323). Additions: the grid of each group is searched for the least error, weighted as the loop weighs it; dead
columns are rounded rather than set to 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.generate.weights.columns import Plan, Rounder
from ctxcomp.generate.weights.grid import columns_per_group
from ctxcomp.generate.weights.grid_search import search_grid
from ctxcomp.generate.weights.method import WeightMethod
from ctxcomp.generate.weights.tensors import QuantizedWeight

if TYPE_CHECKING:
    from ctxcomp.generate.weights.grid import Grid
    from ctxcomp.generate.weights.statistics import LayerStatistics


@dataclass(frozen=True)
class ColumnMethod(WeightMethod):
    """What all methods around GPTQ's loop can set.

    Parameters
    ----------
    act_order: round the columns with the largest inputs first, while others can still make up for them.
    damping: added to the Hessian's diagonal, as a share of its mean, in (0, 1].
    """

    act_order: bool = True
    damping: float = 0.01

    needs_hessian: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.damping <= 1:
            raise InputError(f"damping must be in (0, 1], got {self.damping}")

    def plan(self, statistics: LayerStatistics) -> Plan:
        """The order for a layer with these inputs."""
        return Plan.of(statistics.hessian, act_order=self.act_order, damping=self.damping)


@dataclass(frozen=True)
class Gptq(ColumnMethod):
    """Second-order rounding.

    Parameters
    ----------
    static_groups: find all grids before the first column is rounded, so that groups are consecutive columns in any
        order. False lets each grid see the corrections that came before; with ``act_order`` columns are then grouped
        as they are ordered, and the layer has to gather its inputs.
    """

    static_groups: bool = True

    def quantize_weight(self, weight: Tensor, statistics: LayerStatistics) -> QuantizedWeight:
        """Quantize a weight [N, K], float32."""
        size = columns_per_group(self.group_size, weight.shape[1])
        plan = self.plan(statistics)
        grid = search_grid(weight, self.bits, size, plan.importance, symmetric=self.symmetric)
        columns = torch.arange(weight.shape[1], device=weight.device)
        if self.static_groups:
            codes = GridRounder(plan, grid, columns // size).run(weight, size)
            return QuantizedWeight(codes, grid.scales, grid.zeros, self.bits, size)
        groups = plan.back // size
        rounder = _OpenedRounder(plan, grid, groups)
        codes = rounder.run(weight, size)
        scattered = groups.int() if self.act_order else None
        return QuantizedWeight(codes, rounder.grid.scales, rounder.grid.zeros, self.bits, size, groups=scattered)


class GridRounder(Rounder):
    """Rounds to one grid; column j of the weight is in ``groups[j]``."""

    def __init__(self, plan: Plan, grid: Grid, groups: Tensor) -> None:
        bits = torch.full((grid.scales.shape[1],), grid.bits, device=grid.scales.device)
        zeros = torch.full_like(grid.scales[:1], 2 ** (grid.bits - 1)) if grid.zeros is None else grid.zeros
        super().__init__(plan, grid.scales, zeros, bits, groups)
        self.grid = grid


class _OpenedRounder(GridRounder):
    """Searches the grid of each group anew when it is opened."""

    def open_group(self, start: int, weight: Tensor) -> None:
        """Find the grid of these columns [N, g]."""
        columns = self.plan.order[start : start + weight.shape[1]]
        symmetric = self.grid.zeros is None
        found = search_grid(weight, self.grid.bits, 0, self.plan.importance[columns], symmetric=symmetric)
        group = self.groups[start]
        self.grid.scales[:, group] = found.scales[:, 0]
        self.scales[:, group] = found.scales[:, 0].float()
        if self.grid.zeros is not None and found.zeros is not None:
            self.grid.zeros[:, group] = found.zeros[:, 0]
            self.zeros[:, group] = found.zeros[:, 0].float()
