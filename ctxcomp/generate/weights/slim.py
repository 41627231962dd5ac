"""SliM-LLM: one bit more for the groups that matter most, paid for by as many that matter least.

Source: Huang et al. 2024, "SliM-LLM: Salience-Driven Mixed-Precision Quantization for Large Language Models" (arXiv
2405.14917). Deviations: a group's salience is the error that GPTQ's loop would count for it, and the number of pairs is
the one with the least sum of these errors rather than the least divergence of outputs; in the search for scales every
squared error has the salience of its column as its weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.generate.weights.columns import Rounder
from ctxcomp.generate.weights.gptq import ColumnMethod
from ctxcomp.generate.weights.grid import columns_per_group
from ctxcomp.generate.weights.grid_search import group_error, search_grid
from ctxcomp.generate.weights.tensors import QuantizedWeight

if TYPE_CHECKING:
    from ctxcomp.generate.weights.statistics import LayerStatistics


@dataclass(frozen=True)
class Slim(ColumnMethod):
    """Bits by salience: ``bits - 1``, ``bits`` or ``bits + 1`` for each group, ``bits`` on average.

    All rows of a layer share a group's width, so that a layer is at most three plain ones side by side.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 3 <= self.bits <= 7:
            raise InputError(f"bits must be 3 to 7, so that groups can have one more and one less, got {self.bits}")

    def quantize_weight(self, weight: Tensor, statistics: LayerStatistics) -> QuantizedWeight:
        """Quantize a weight [N, K], float32."""
        size = columns_per_group(self.group_size, weight.shape[1])
        plan = self.plan(statistics)
        grids = [
            search_grid(weight, bits, size, plan.importance, symmetric=self.symmetric)
            for bits in (self.bits - 1, self.bits, self.bits + 1)
        ]
        errors = torch.stack([group_error(grid, weight, plan.importance).sum(0) for grid in grids])
        full = weight.shape[1] // size
        widths = torch.ones(errors.shape[1], dtype=torch.long, device=weight.device)
        widths[:full] += allocate(errors[:, :full])
        bits = widths + self.bits - 1
        scales = _picked([grid.scales for grid in grids], widths)
        zeros = None if self.symmetric else _picked([g.zeros for g in grids if g.zeros is not None], widths)
        groups = torch.arange(weight.shape[1], device=weight.device) // size
        middle = 2.0 ** (bits - 1)[None] if zeros is None else zeros
        codes = Rounder(plan, scales, middle, bits, groups).run(weight, size)
        return QuantizedWeight(codes, scales, zeros, self.bits, size, group_bits=bits.to(torch.uint8))


def allocate(errors: Tensor) -> Tensor:
    """One bit less, none or one more for each group, int64 [G]: as many of either, and the least sum of errors.

    Parameters
    ----------
    errors: [3, G], with one bit less, the same and one more. The groups with the largest errors are paired with those
        with the smallest, as long as a pair gains.
    """
    order = errors[1].argsort(descending=True, stable=True)
    half = len(order) // 2
    gains = (errors[1] - errors[2])[order[:half]] - (errors[0] - errors[1])[order.flip(0)[:half]]
    total = torch.cat([gains.new_zeros(1), gains.cumsum(0)])
    pairs = int(total.argmax())
    change = torch.zeros_like(order)
    change[order[:pairs]] = 1
    change[order.flip(0)[:pairs]] = -1
    return change


def _picked(tensors: list[Tensor], widths: Tensor) -> Tensor:
    """Group g [N] of ``tensors[widths[g]]``, [N, G]."""
    stacked = torch.stack(tensors)
    return stacked[widths, :, torch.arange(len(widths), device=widths.device)].T.contiguous()
