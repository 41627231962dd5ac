"""SmoothQuant+: move the difficulty of outlier channels from weights to norms with one strength for the whole model.

Source: Pan et al. 2023, "SmoothQuant+: Accurate and Efficient 4-bit Post-Training Weight Quantization for LLM"
(arXiv 2312.03788): ``s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)``, one alpha found by grid search on the loss of the
whole model, then round to nearest in groups. Deviations: the loss is the divergence of the next-token distributions on
calibration windows, since the summed errors of layers did not tell which alpha is best, and no smoothing is a choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ctxcomp.errors import InputError
from ctxcomp.generate.weights.calibration import walk
from ctxcomp.generate.weights.grid import find_grid, nearest
from ctxcomp.generate.weights.method import WeightMethod
from ctxcomp.generate.weights.models import weight_of
from ctxcomp.generate.weights.report import Reference

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ctxcomp.generate.weights.folds import Fold
    from ctxcomp.generate.weights.statistics import LayerStatistics
    from ctxcomp.generate.weights.tensors import QuantizedWeight

SMALLEST = 1e-5
WINDOWS = 16
"""Calibration windows that every alpha is tried on."""


@dataclass(frozen=True)
class SmoothquantPlus(WeightMethod):
    """Smoothing with one searched strength, then round to nearest.

    Parameters
    ----------
    step: of the search for alpha in [0, 1].
    """

    step: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.step <= 1:
            raise InputError(f"step must be above 0 and at most 1, got {self.step}")

    def prepare_model(self, model: nn.Module, ids: Tensor) -> None:
        """Find alpha over the whole model and fold its scales; holds a copy of the weights on the CPU meanwhile."""
        linears: list[nn.Module] = []
        found: list[tuple[Fold, Tensor]] = []
        for block in walk(model, ids):
            statistics = block.statistics()
            linears += block.linears.values()
            found += [(f, statistics[f.targets[0]].max_abs) for f in block.folds if f.rows is None]
        reference = Reference(model, ids[:WINDOWS])
        count = round(1 / self.step)
        best, lowest = None, float("inf")
        for alpha in (None, *(i / count for i in range(count + 1))):
            with _unchanged_after(linears, [fold for fold, _ in found]):
                _smooth(found, alpha)
                for module in linears:
                    weight = weight_of(module)
                    weight.copy_(nearest(weight.float(), self.bits, self.group_size, symmetric=self.symmetric))
                loss = reference.compare(model).mean_kl
            if loss < lowest:
                best, lowest = alpha, loss
        _smooth(found, best)

    def quantize_weight(self, weight: Tensor, statistics: LayerStatistics) -> QuantizedWeight:
        """Round a smoothed weight [N, K], float32, to the nearest codes."""
        return find_grid(weight, self.bits, self.group_size, symmetric=self.symmetric).quantized(weight)


def _smooth(found: list[tuple[Fold, Tensor]], alpha: float | None) -> None:
    """Fold the scales [K] of this alpha, around 1; None does nothing."""
    if alpha is None:
        return
    for fold, max_abs in found:
        heaviest = torch.stack([weight_of(module).float().abs().amax(0) for module in fold.linears]).amax(0)
        scales = max_abs.clamp(min=SMALLEST).pow(alpha) / heaviest.clamp(min=SMALLEST).pow(1 - alpha)
        fold.apply(scales / (scales.max() * scales.min()).sqrt())


@contextmanager
def _unchanged_after(linears: list[nn.Module], folds: list[Fold]) -> Iterator[None]:
    tensors = [weight_of(module) for module in linears] + [part for fold in folds for part in fold.source_tensors()]
    before = [tensor.to("cpu", copy=True) for tensor in tensors]
    try:
        yield
    finally:
        for tensor, old in zip(tensors, before, strict=True):
            tensor.copy_(old)
