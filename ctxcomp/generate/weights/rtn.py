"""Round to nearest: no calibration; the baseline that every other method must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ctxcomp.generate.weights.grid import find_grid
from ctxcomp.generate.weights.method import WeightMethod

if TYPE_CHECKING:
    from torch import Tensor

    from ctxcomp.generate.weights.statistics import LayerStatistics
    from ctxcomp.generate.weights.tensors import QuantizedWeight


@dataclass(frozen=True)
class Rtn(WeightMethod):
    """Each weight becomes the nearest value of its group's grid."""

    calibrated: ClassVar[bool] = False

    def quantize_weight(self, weight: Tensor, statistics: LayerStatistics) -> QuantizedWeight:
        """Quantize a weight [N, K], float32; the statistics are not used."""
        return find_grid(weight, self.bits, self.group_size, symmetric=self.symmetric).quantized(weight)
