"""SmoothQuant+: move the difficulty of outlier channels from weights to norms with one strength for the whole model.

Source: Pan et al. 2023, "SmoothQuant+: Accurate and Efficient 4-bit Post-Training Weight Quantization for LLM"
(arXiv 2312.03788): ``s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)``, one alpha found by grid search, then round to
nearest in groups. Deviation: the loss of the search is the relative squared error of the scaled layers' outputs, summed
over the model's layers, so that one pass finds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ctxcomp.generate.weights.calibration import walk
from ctxcomp.generate.weights.grid import find_grid, nearest
from ctxcomp.generate.weights.method import WeightMethod
from ctxcomp.generate.weights.models import weight_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ctxcomp.generate.weights.folds import Fold
    from ctxcomp.generate.weights.statistics import LayerStatistics
    from ctxcomp.generate.weights.tensors import QuantizedWeight

SMALLEST = 1e-5


@dataclass(frozen=True)
class SmoothquantPlus(WeightMethod):
    """Smoothing with one searched strength, then round to nearest.

    Parameters
    ----------
    step: of the search for alpha in [0, 1].
    """

    step: float = 0.05

    def prepare_model(self, model: nn.Module, ids: Tensor) -> None:
        """Find alpha over the whole model and fold its scales."""
        count = round(1 / self.step)
        alphas = [i / count for i in range(count + 1)]
        losses = torch.zeros(len(alphas), dtype=torch.float64)
        found: list[tuple[Fold, Tensor]] = []
        for block in walk(model, ids):
            statistics = block.statistics()
            for fold in block.folds:
                inputs = statistics[fold.targets[0]]
                found.append((fold, inputs.max_abs))
                losses += torch.tensor([self._loss(fold, inputs, alpha) for alpha in alphas], dtype=torch.float64)
        best = alphas[int(losses.argmin())]
        for fold, max_abs in found:
            fold.apply(_scales(fold, max_abs, best))

    def quantize_weight(self, weight: Tensor, statistics: LayerStatistics) -> QuantizedWeight:
        """Round a smoothed weight [N, K], float32, to the nearest codes."""
        return find_grid(weight, self.bits, self.group_size, symmetric=self.symmetric).quantized(weight)

    def _loss(self, fold: Fold, inputs: LayerStatistics, alpha: float) -> float:
        """Relative squared error of the targets' outputs on the sampled inputs."""
        scales = _scales(fold, inputs.max_abs, alpha)
        weight = torch.cat([weight_of(module).float() for module in fold.linears])
        rounded = nearest(weight * scales, self.bits, self.group_size, symmetric=self.symmetric) / scales
        error = (inputs.sample @ (rounded - weight).T).square().sum()
        return float(error / (inputs.sample @ weight.T).square().sum().clamp(min=SMALLEST))


def _scales(fold: Fold, max_abs: Tensor, alpha: float) -> Tensor:
    """The scales [K], around 1."""
    heaviest = torch.stack([weight_of(module).float().abs().amax(0) for module in fold.linears]).amax(0)
    scales = max_abs.clamp(min=SMALLEST).pow(alpha) / heaviest.clamp(min=SMALLEST).pow(1 - alpha)
    return scales / (scales.max() * scales.min()).sqrt()
