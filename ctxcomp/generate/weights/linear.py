"""A linear layer that multiplies with packed codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctxcomp.errors import InputError
from ctxcomp.generate.weights.tensors import Outliers, QuantizedWeight, ScaleLevels
from ctxcomp_kernels import wna16
from ctxcomp_kernels.pack import pack, unpack

SPARSE_ROWS = 16
"""With more inputs than this, outliers are put into a dense weight instead of being added to the outputs."""


class PackedLevels(nn.Module):
    """Scales that are codes themselves, packed; decoded whenever they are needed."""

    packed: Tensor
    base: Tensor
    step: Tensor

    def __init__(self, levels: ScaleLevels) -> None:
        super().__init__()
        self.bits, self.rows, self.groups = levels.bits, levels.rows, levels.codes.shape[1]
        self.register_buffer("packed", pack(levels.codes, levels.bits))
        self.register_buffer("base", levels.base)
        self.register_buffer("step", levels.step)

    def levels(self) -> ScaleLevels:
        """What it was made from."""
        codes = unpack(self.packed, self.bits, self.groups)
        return ScaleLevels(codes, self.base, self.step, self.bits, self.rows)


class PackedColumns(nn.Module):
    """Codes of one width: all columns of a weight, or those whose codes have that width or were reordered.

    Parameters
    ----------
    codes: uint8 [N, K'].
    scales: [N, G']; zeros: uint8 [N, G'] or None.
    columns: int64 [K'], where these columns are in the input; None: all of them, in order.
    levels: what the scales are stored as, if not as they are.
    """

    packed: Tensor
    scales: Tensor | None
    zeros: Tensor | None
    columns: Tensor | None

    def __init__(
        self,
        codes: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        columns: Tensor | None,
        bits: int,
        group_size: int,
        levels: ScaleLevels | None = None,
    ) -> None:
        super().__init__()
        self.bits = bits
        self.group_size = group_size
        self.count = codes.shape[1]
        self.register_buffer("packed", pack(codes, bits))
        self.levels = None if levels is None else PackedLevels(levels)
        self.register_buffer("scales", scales.T.contiguous() if levels is None else None)
        self.register_buffer("zeros", None if zeros is None else zeros.T.contiguous())
        self.register_buffer("columns", columns)
        self._cpu: wna16.CpuWeight | None = None

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``x @ W.T + bias`` of these columns; x [..., K]."""
        own = x if self.columns is None else x[..., self.columns]
        prepared = self._prepared(x)
        if prepared is not None:
            return wna16.linear_cpu(own, prepared, bias)
        return wna16.linear(own, self.packed, self.group_scales(), self.zeros, self.bits, self.group_size, bias)

    def _prepared(self, x: Tensor) -> wna16.CpuWeight | None:
        """The copy for torch's own operator, made when bfloat16 first comes by on a CPU."""
        if x.device.type != "cpu" or x.dtype != torch.bfloat16 or self.bits != 4:
            return None
        if self._cpu is None and not torch.compiler.is_compiling():
            self._cpu = wna16.prepare_cpu(
                self.packed, self.group_scales(), self.zeros, self.bits, self.group_size, self.count
            )
        return self._cpu

    def group_scales(self) -> Tensor:
        """Scales of all groups, [G', N]."""
        if self.scales is not None:
            return self.scales
        if self.levels is None:
            raise InputError("this layer holds no scales")
        return self.levels.levels().decode().T.contiguous()

    def codes(self) -> Tensor:
        """The codes, uint8 [N, K']."""
        return unpack(self.packed, self.bits, self.count)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight of these columns, [N, K']."""
        return wna16.dequantize(
            self.packed, self.group_scales(), self.zeros, self.bits, self.group_size, self.count, dtype
        )

    def nbytes(self) -> int:
        """Bytes held, the copy for torch's own CPU operator included."""
        copy = (self._cpu.packed, self._cpu.scales_and_zeros) if self._cpu is not None else ()
        return sum(t.numel() * t.element_size() for t in (*self.buffers(), *copy))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move, or cast all but the scales: the codes were found for these very values."""
        self._cpu, scales = None, self.scales
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if scales is not None and self.scales is not None and self.scales.dtype != scales.dtype:
            self.scales = scales.to(self.scales.device)
        return self


class QuantizedLinear(nn.Module):
    """Takes the place of a linear layer; made by `from_weight`.

    The plain case is one call of ``ctxcomp_kernels.wna16``; groups of mixed widths take one call per width, scattered
    groups (act-order) gather the input's columns first, and outliers and a low-rank part are added.
    """

    groups: Tensor | None
    group_bits: Tensor | None
    outlier_rows: Tensor | None
    outlier_columns: Tensor | None
    outlier_values: Tensor | None
    low_rank_b: Tensor | None
    low_rank_a: Tensor | None

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bits = weight.bits
        self.group_size = weight.group_size
        self.parts = nn.ModuleList(_parts(weight))
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        outliers, low_rank = weight.outliers, weight.low_rank
        self.register_buffer("groups", weight.groups)
        self.register_buffer("group_bits", weight.group_bits)
        self.register_buffer("outlier_rows", None if outliers is None else outliers.rows)
        self.register_buffer("outlier_columns", None if outliers is None else outliers.columns)
        self.register_buffer("outlier_values", None if outliers is None else outliers.values)
        self.register_buffer("low_rank_b", None if low_rank is None else low_rank[0])
        self.register_buffer("low_rank_a", None if low_rank is None else low_rank[1])

    @classmethod
    def from_weight(cls, weight: QuantizedWeight, bias: Tensor | None = None) -> QuantizedLinear:
        """The layer with this weight [N, K] and bias [N]."""
        return cls(weight, bias)

    def to_weight(self) -> QuantizedWeight:
        """The weight it was made from; only the codes under outliers, which decode to nothing, are now zero points."""
        parts = self._packed()
        scales = self._gathered([part.group_scales() for part in parts])
        zeros = [part.zeros for part in parts if part.zeros is not None]
        codes = scales.new_empty(self.out_features, self.in_features, dtype=torch.uint8)
        for part in parts:
            codes[:, slice(None) if part.columns is None else part.columns] = part.codes()
        outliers = None
        if self.outlier_rows is not None and self.outlier_columns is not None and self.outlier_values is not None:
            outliers = Outliers(self.outlier_rows, self.outlier_columns, self.outlier_values)
        return QuantizedWeight(
            codes,
            scales,
            self._gathered(zeros) if zeros else None,
            self.bits,
            self.group_size,
            groups=self.groups,
            group_bits=self.group_bits,
            outliers=outliers,
            low_rank=None if self.low_rank_b is None or self.low_rank_a is None else (self.low_rank_b, self.low_rank_a),
            scale_levels=None if parts[0].levels is None else parts[0].levels.levels(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``x @ W.T + bias``; x [..., K] to [..., N]."""
        if self.outlier_values is not None and x.numel() > SPARSE_ROWS * self.in_features:
            return functional.linear(x, self.dense(x.dtype), self.bias)
        first, *others = self._packed()
        y: Tensor = first(x, self.bias)
        for part in others:
            y = y + part(x)
        if self.low_rank_a is not None and self.low_rank_b is not None:
            y = y + functional.linear(functional.linear(x, self.low_rank_a.to(x.dtype)), self.low_rank_b.to(x.dtype))
        if self.outlier_values is not None and self.outlier_columns is not None and self.outlier_rows is not None:
            products = x[..., self.outlier_columns.long()] * self.outlier_values.to(x.dtype)
            y = y.index_add(-1, self.outlier_rows.long(), products)
        return y

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weight it multiplies with, [N, K]."""
        first, *others = self._packed()
        if first.columns is None:
            weight = first.dequantize(dtype)
        else:
            weight = torch.empty(self.out_features, self.in_features, dtype=dtype, device=first.packed.device)
            for part in (first, *others):
                weight[:, part.columns] = part.dequantize(dtype)
        if self.outlier_rows is not None and self.outlier_columns is not None and self.outlier_values is not None:
            weight[self.outlier_rows.long(), self.outlier_columns.long()] = self.outlier_values.to(dtype)
        if self.low_rank_a is not None and self.low_rank_b is not None:
            weight = weight + (self.low_rank_b.float() @ self.low_rank_a.float()).to(dtype)
        return weight

    def nbytes(self) -> int:
        """Bytes that the layer holds, bias and indices included."""
        own = (*self.buffers(recurse=False), *self.parameters(recurse=False))
        return sum(t.numel() * t.element_size() for t in own) + sum(part.nbytes() for part in self._packed())

    def extra_repr(self) -> str:
        """The part of ``repr`` that tells what it is."""
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, group_size={self.group_size}"

    def _packed(self) -> list[PackedColumns]:
        return [part for part in self.parts if isinstance(part, PackedColumns)]

    def _gathered(self, tensors: list[Tensor]) -> Tensor:
        """Scales or zeros of all groups, [N, G], from those of the parts, [G', N]."""
        if self.group_bits is None:
            return tensors[0].T.contiguous()
        gathered = tensors[0].new_empty(self.out_features, len(self.group_bits))
        for part, tensor in zip(self._packed(), tensors, strict=True):
            gathered[:, self.group_bits == part.bits] = tensor.T
        return gathered


def _parts(weight: QuantizedWeight) -> list[PackedColumns]:
    """One part per width of codes, its columns in the order of their groups."""
    codes = weight.codes
    if weight.outliers is not None:
        rows, columns = weight.outliers.rows.long(), weight.outliers.columns.long()
        zeros = weight.zero_codes().expand(weight.shape)
        codes = codes.clone()
        codes[rows, columns] = zeros[rows, columns].to(torch.uint8)
    if weight.groups is None and weight.group_bits is None:
        levels = weight.scale_levels
        return [PackedColumns(codes, weight.scales, weight.zeros, None, weight.bits, weight.group_size, levels)]
    groups = weight.column_groups()
    _check_groups(weight, groups)
    order = groups.argsort(stable=True)
    widths = [weight.bits] if weight.group_bits is None else torch.unique(weight.group_bits).tolist()
    parts = []
    for width in widths:
        mine = torch.ones_like(weight.scales[0], dtype=torch.bool)
        if weight.group_bits is not None:
            mine = weight.group_bits == width
        columns = order[mine[groups[order]]]
        zeros_ = None if weight.zeros is None else weight.zeros[:, mine]
        parts.append(
            PackedColumns(codes[:, columns], weight.scales[:, mine], zeros_, columns, width, weight.group_size)
        )
    return parts


def _check_groups(weight: QuantizedWeight, groups: Tensor) -> None:
    sizes = torch.bincount(groups, minlength=weight.scales.shape[1])
    if len(sizes) != weight.scales.shape[1] or bool((sizes[:-1] != weight.group_size).any()):
        raise InputError(f"each group but the last must have {weight.group_size} columns, got {sizes.tolist()[:8]} ...")
