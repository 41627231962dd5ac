"""A quantized weight as plain tensors: what methods make, formats store and `QuantizedLinear` runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctxcomp.errors import InputError


@dataclass(frozen=True, eq=False)
class Outliers:
    """Entries of a weight that are kept as they are; they replace what their codes decode to.

    Parameters
    ----------
    rows, columns: [m], where they are; no entry twice. int16 or int32.
    values: [m], float16 or bfloat16.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor

    def nbytes(self) -> int:
        """Bytes with their indices."""
        return sum(t.numel() * t.element_size() for t in (self.rows, self.columns, self.values))


@dataclass(frozen=True, eq=False)
class ScaleLevels:
    """Scales that are codes themselves: ``base + code * step``, where 16 rows or so share a base and a step.

    Parameters
    ----------
    codes: uint8 [N, G], 0 .. 2**bits - 1.
    base, step: float16 [ceil(N / rows), G].
    bits: of a code.
    rows: that share a base and a step.
    """

    codes: Tensor
    base: Tensor
    step: Tensor
    bits: int
    rows: int

    def decode(self) -> Tensor:
        """The scales, float16 [N, G]."""
        count = len(self.codes)
        base, step = (part.float().repeat_interleave(self.rows, 0)[:count] for part in (self.base, self.step))
        return (base + self.codes * step).to(self.base.dtype)

    def nbytes(self) -> int:
        """Bytes with the codes packed."""
        return -(-self.codes.numel() * self.bits // 8) + (self.base.numel() + self.step.numel()) * 2


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """One linear layer's weight [N, K] (N out, K in): ``(code - zero) * scale``, outliers put in, low rank added.

    G below is the number of groups, ``ceil(K / group_size)``; the last group may be shorter.

    Parameters
    ----------
    codes: uint8 [N, K], 0 .. 2**bits - 1, in the order of the original weight's columns.
    scales: [N, G], floating, as stored.
    zeros: uint8 [N, G], the code that stands for 0; None: symmetric, ``2**(bits - 1)``.
    bits: nominal bits of a code, 2 to 8.
    group_size: columns per group; K itself for one group per row.
    groups: int32 [K], the group of each column where an order by activation scattered them; None: ``k // group_size``.
    group_bits: uint8 [G], the bits of each group where they differ; None: ``bits`` everywhere.
    outliers: entries kept apart.
    low_rank: (B [N, r], A [r, K]), whose product is added.
    scale_levels: what decodes to ``scales``, where that is how they are stored.

    Raises
    ------
    InputError: the tensors do not belong together.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    bits: int
    group_size: int
    groups: Tensor | None = None
    group_bits: Tensor | None = None
    outliers: Outliers | None = None
    low_rank: tuple[Tensor, Tensor] | None = None
    scale_levels: ScaleLevels | None = None

    def __post_init__(self) -> None:
        if self.codes.dtype != torch.uint8 or self.codes.dim() != 2:
            raise InputError(f"codes must be uint8 [N, K], got {self.codes.dtype} {list(self.codes.shape)}")
        if not 1 <= self.bits <= 8 or self.group_size < 1:
            raise InputError(f"bits must be 1 to 8 and group_size positive, got {self.bits} and {self.group_size}")
        n, k = self.codes.shape
        count = -(-k // self.group_size)
        for name, tensor, shape in (
            ("scales", self.scales, (n, count)),
            ("zeros", self.zeros, (n, count)),
            ("groups", self.groups, (k,)),
            ("group_bits", self.group_bits, (count,)),
        ):
            if tensor is not None and tuple(tensor.shape) != shape:
                raise InputError(f"{name} must be {list(shape)} for codes [{n}, {k}], got {list(tensor.shape)}")

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.codes.shape[0], self.codes.shape[1]

    def column_groups(self) -> Tensor:
        """The group of each column, int64 [K]."""
        if self.groups is not None:
            return self.groups.long()
        return torch.arange(self.codes.shape[1], device=self.codes.device) // self.group_size

    def column_bits(self) -> Tensor:
        """The bits of each column's codes, int64 [K]."""
        if self.group_bits is None:
            return torch.full((self.codes.shape[1],), self.bits, device=self.codes.device)
        return self.group_bits.long()[self.column_groups()]

    def zero_codes(self) -> Tensor:
        """The code that stands for 0, int16 [N or 1, K]."""
        if self.zeros is not None:
            return self.zeros.to(torch.int16)[:, self.column_groups()]
        ones = torch.ones_like(self.column_bits())
        return torch.bitwise_left_shift(ones, self.column_bits() - 1).to(torch.int16)[None]

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight that the layer multiplies with, [N, K], computed in float32."""
        steps = (self.codes.to(torch.int16) - self.zero_codes()).float()
        weight = steps * self.scales.float()[:, self.column_groups()]
        if self.outliers is not None:
            rows, columns = self.outliers.rows.long(), self.outliers.columns.long()
            weight[rows, columns] = self.outliers.values.float()
        if self.low_rank is not None:
            b, a = self.low_rank
            weight += b.float() @ a.float()
        return weight.to(dtype)

    def nbytes(self) -> int:
        """Packed size: codes and zeros at their bits, and every other stored value with its indices."""
        n = self.codes.shape[0]
        size = -(-n * int(self.column_bits().sum()) // 8)
        levels = self.scale_levels
        size += self.scales.numel() * self.scales.element_size() if levels is None else levels.nbytes()
        if self.zeros is not None:
            per_row = self.bits * self.zeros.shape[1] if self.group_bits is None else int(self.group_bits.sum())
            size += -(-n * per_row // 8)
        for tensor in (self.groups, self.group_bits, *(self.low_rank or ())):
            if tensor is not None:
                size += tensor.numel() * tensor.element_size()
        return size + (self.outliers.nbytes() if self.outliers is not None else 0)
