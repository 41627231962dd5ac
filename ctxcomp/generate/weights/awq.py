"""AWQ: protect the columns that matter by scaling them before rounding, then clip what is left of the range.

Source: Lin et al. 2023, "AWQ: Activation-aware Weight Quantization" (arXiv 2306.00978), with the searches as llm-awq
and AutoAWQ run them, on the outputs of the original blocks. Deviation: a group's grid always holds 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from ctxcomp.generate.weights.grid import Grid, columns_per_group, find_grid, grouped, nearest, ungrouped
from ctxcomp.generate.weights.method import WeightMethod
from ctxcomp.generate.weights.models import Block, first_tensor, weight_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ctxcomp.generate.weights.folds import Fold
    from ctxcomp.generate.weights.statistics import LayerStatistics
    from ctxcomp.generate.weights.tensors import QuantizedWeight

CLIP_STEPS, CLIP_TRIED = 20, 10
"""A group's range is cut to 1 - i/20 of its largest magnitude, i < 10."""
NEVER_CLIPPED = ("q_", "k_", "query", "key", "Wqkv")
"""Queries and keys multiply each other, so that a layer's own output does not tell what clipping does."""
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Awq(WeightMethod):
    """Activation-aware scaling and clipping.

    Parameters
    ----------
    duo_scaling: scale by activations and weights (AutoAWQ); False: by activations alone (the paper).
    clip: search for a clip of each group.
    grid: steps of the exponent's search in [0, 1).
    """

    duo_scaling: bool = True
    clip: bool = True
    grid: int = 20

    follows: ClassVar[bool] = False  # 3 bits on the small trained Llama: perplexity 122.7, following 125.3

    def prepare_block(self, block: Block) -> None:
        """Scale the inputs of every group of layers whose source takes the inverse."""
        statistics = block.statistics()
        for fold in block.folds:
            mean_abs = statistics[fold.targets[0]].mean_abs
            fold.apply(self._best_scales(block, fold, mean_abs))

    def quantize_weight(self, weight: Tensor, statistics: LayerStatistics) -> QuantizedWeight:
        """Round a weight [N, K], float32, to grids clipped to where its sampled outputs change least."""
        clipped = weight
        if self.clip and statistics.tokens and not any(part in statistics.layer for part in NEVER_CLIPPED):
            clipped = torch.cat([self._clipped(rows, statistics.sample) for rows in torch.split(weight, ROWS_AT_ONCE)])
        return self._grid(clipped).quantized(clipped)

    def _best_scales(self, block: Block, fold: Fold, mean_abs: Tensor) -> Tensor:
        """The scales [K] that change the output of the inspected module least."""
        calls = block.calls(fold.inspected)
        wanted = [first_tensor(fold.inspected(*args, **kwargs)) for args, kwargs in calls]
        weights = [weight_of(module).to(torch.float32, copy=True) for module in fold.linears]
        size = sum(output.numel() for output in wanted)
        best, lowest = torch.ones_like(mean_abs), float("inf")
        magnitudes = self._magnitudes(weights)
        for step in range(self.grid):
            scales = self._scales(mean_abs, magnitudes, step / self.grid)
            _fill(fold.linears, [self._rounded(weight * scales) / scales for weight in weights])
            outputs = (first_tensor(fold.inspected(*args, **kwargs)) for args, kwargs in calls)
            loss = sum(float((a.float() - b.float()).square().sum()) for a, b in zip(outputs, wanted, strict=True))
            if loss / size < lowest:
                best, lowest = scales, loss / size
        _fill(fold.linears, weights)
        return best

    def _scales(self, mean_abs: Tensor, magnitudes: Tensor, exponent: float) -> Tensor:
        scales = mean_abs.pow(exponent)
        if self.duo_scaling:
            scales = scales / (magnitudes.pow(1 - exponent) + 1e-4)
        scales = scales.clamp(min=1e-4)
        scales = scales / (scales.max() * scales.min()).sqrt()
        return torch.where(scales.isfinite(), scales, 1.0)

    def _magnitudes(self, weights: list[Tensor]) -> Tensor:
        """Mean over the rows of |w| as a share of its group's largest, [K]."""
        weight = torch.cat(weights).abs()
        groups = grouped(weight, columns_per_group(self.group_size, weight.shape[1]))
        return ungrouped(groups / (groups.amax(-1, keepdim=True) + 1e-6), weight.shape[1]).mean(0)

    def _grid(self, weight: Tensor) -> Grid:
        return find_grid(weight, self.bits, self.group_size, symmetric=self.symmetric)

    def _rounded(self, weight: Tensor) -> Tensor:
        return nearest(weight, self.bits, self.group_size, symmetric=self.symmetric)

    def _clipped(self, weight: Tensor, sample: Tensor) -> Tensor:
        """Clip each group of some rows [n, K] where the squared error of its part of the outputs is least."""
        columns = weight.shape[1]
        size = columns_per_group(self.group_size, columns)
        inputs = grouped(sample, size).transpose(0, 1)
        moments = inputs.transpose(1, 2) @ inputs
        highest = grouped(weight, size).abs().amax(-1)
        best, lowest = highest, torch.full_like(highest, torch.inf)
        for step in range(CLIP_TRIED):
            limit = highest * (1 - step / CLIP_STEPS)
            change = grouped(self._rounded(_clamp(weight, limit, size)) - weight, size).transpose(0, 1)
            error = ((change @ moments) * change).sum(-1).T
            best, lowest = torch.where(error < lowest, limit, best), torch.minimum(error, lowest)
        return _clamp(weight, best, size)


def _clamp(weight: Tensor, limit: Tensor, group_size: int) -> Tensor:
    bound = limit[..., None]
    return ungrouped(grouped(weight, group_size).clamp(-bound, bound), weight.shape[1])


def _fill(modules: tuple[nn.Module, ...], weights: list[Tensor]) -> None:
    for module, weight in zip(modules, weights, strict=True):
        weight_of(module).copy_(weight)
