"""The contract of a weight-quantization method: one file per method, one function to write."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ctxcomp.errors import InputError
from ctxcomp.fields import check_fields

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ctxcomp.generate.weights.models import Block
    from ctxcomp.generate.weights.statistics import LayerStatistics
    from ctxcomp.generate.weights.tensors import QuantizedWeight


@dataclass(frozen=True)
class WeightMethod(ABC):
    """How linear layers are quantized; the fields are the configuration.

    Parameters
    ----------
    bits: bits of a code, 2 to 8.
    group_size: input columns that share a scale; 0 for one group per row.
    symmetric: no zero points.

    Raises
    ------
    InputError: a field is not what it must be.
    """

    bits: int = 4
    group_size: int = 128
    symmetric: bool = False

    calibrated: ClassVar[bool] = True
    """Whether it needs calibration texts."""
    needs_hessian: ClassVar[bool] = False
    """Whether it needs `LayerStatistics.hessian`."""
    follows: ClassVar[bool] = True
    """Whether a block is calibrated on the outputs of the quantized blocks before it, not of the original ones."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not 2 <= self.bits <= 8:
            raise InputError(f"bits must be 2 to 8, got {self.bits}")
        if self.group_size < 0:
            raise InputError(f"group_size must be positive, or 0 for one group per row, got {self.group_size}")

    def prepare_model(self, model: nn.Module, ids: Tensor) -> None:  # noqa: B027 - most methods prepare nothing
        """Change the model as a whole, without changing what it computes; ``ids`` [n, tokens] calibrate."""

    def prepare_block(self, block: Block) -> None:  # noqa: B027
        """Change one decoder block, without changing what it computes."""

    @abstractmethod
    def quantize_weight(self, weight: Tensor, statistics: LayerStatistics) -> QuantizedWeight:
        """Quantize a weight [N, K], float32, whose inputs had these statistics."""
