"""Uniform grids: scales and zero points of groups of columns, and rounding to them.

Scales are stored in float16 and codes are found with the stored scales, so that a file holds what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ctxcomp.generate.weights.tensors import QuantizedWeight

SCALE_DTYPE = torch.float16
SMALLEST_RANGE = 1e-5
"""AWQ's floor of a group's range."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Scales [N, G] (float16) and zero points (uint8 [N, G], None if symmetric) of groups of columns."""

    scales: Tensor
    zeros: Tensor | None
    bits: int
    group_size: int

    def encode(self, weight: Tensor) -> Tensor:
        """The nearest codes, uint8, of a weight [N, K]."""
        steps = grouped(weight, self.group_size) / self.scales.float()[..., None] + self._zeros()
        return ungrouped(steps.round_().clamp_(0, 2**self.bits - 1), weight.shape[1]).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """What codes [N, K] stand for, float32."""
        values = (grouped(codes.float(), self.group_size) - self._zeros()) * self.scales.float()[..., None]
        return ungrouped(values, codes.shape[1])

    def quantized(self, weight: Tensor) -> QuantizedWeight:
        """A weight [N, K] rounded to the nearest codes."""
        return QuantizedWeight(self.encode(weight), self.scales, self.zeros, self.bits, self.group_size)

    def _zeros(self) -> Tensor | float:
        return 2 ** (self.bits - 1) if self.zeros is None else self.zeros.float()[..., None]


def columns_per_group(group_size: int, columns: int) -> int:
    """The group size for a layer with K columns: 0, or more than there are, means one group per row."""
    return min(group_size, columns) or columns


def grouped(weight: Tensor, group_size: int) -> Tensor:
    """[N, K] as [N, G, group_size]; a short last group is filled with zeros."""
    missing = -weight.shape[1] % group_size
    return (functional.pad(weight, (0, missing)) if missing else weight).reshape(len(weight), -1, group_size)


def ungrouped(groups: Tensor, columns: int) -> Tensor:
    """[N, G, group_size] as [N, K] again."""
    return groups.flatten(1)[:, :columns]


def find_grid(weight: Tensor, bits: int, group_size: int, *, symmetric: bool = False) -> Grid:
    """The grid that spans each group's values and 0.

    Parameters
    ----------
    weight: [N, K], float32.
    group_size: columns per group; 0 for one group per row.
    symmetric: ``scale = max|w| / (2**(bits - 1) - 0.5)``, as compressed-tensors has it; else from the lowest to the
        highest value, as AWQ has it, except that 0 is always inside (AWQ breaks where a group has only one sign).
    """
    size = columns_per_group(group_size, weight.shape[1])
    groups = grouped(weight, size)
    if symmetric:
        width = groups.abs().amax(-1).clamp(min=SMALLEST_RANGE)
        return Grid(_stored(width / (2 ** (bits - 1) - 0.5)), None, bits, size)
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    scales = _stored((high - low).clamp(min=SMALLEST_RANGE) / (2**bits - 1))
    zeros = (-low / scales.float()).round().clamp(0, 2**bits - 1).to(torch.uint8)
    return Grid(scales, zeros, bits, size)


def _stored(scales: Tensor) -> Tensor:
    finite = torch.finfo(SCALE_DTYPE)
    return scales.clamp(finite.smallest_normal * 2**-10, finite.max).to(SCALE_DTYPE)


def nearest(weight: Tensor, bits: int, group_size: int, *, symmetric: bool = False) -> Tensor:
    """A weight [N, K] as its own grid would decode it, float32: round-to-nearest without the codes."""
    grid = find_grid(weight, bits, group_size, symmetric=symmetric)
    zeros = grid._zeros()
    steps = grouped(weight, grid.group_size) / grid.scales.float()[..., None]
    steps = (steps + zeros).round_().clamp_(0, 2**bits - 1) - zeros
    return ungrouped(steps * grid.scales.float()[..., None], weight.shape[1])
