"""AutoAWQ's GEMM format: 4 bits, asymmetric, packed along the outputs in an order of its own.

``qweight`` int32 [K, N/8], ``qzeros`` int32 [G, N/8], ``scales`` float16 [G, N]; the i-th nibble of a word, from the
lowest, holds the column ``ORDER[i]`` of its eight.
Source: AutoAWQ 0.2.9, ``WQLinear_GEMM`` (the format; the code is ours).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ctxcomp.errors import InputError, ModelError
from ctxcomp.generate.formats.base import (
    Form,
    Format,
    Scheme,
    Shape,
    Tensors,
    check_plain,
    check_scales,
    group_size_setting,
    half_scales,
    whole_number,
    zeros_or_none,
)
from ctxcomp.generate.formats.headers import Layer
from ctxcomp.generate.weights.tensors import QuantizedWeight
from ctxcomp_kernels.pack import pack, unpack

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
BITS = 4


@dataclass(frozen=True)
class Awq(Format):
    """Settings of an AWQ checkpoint: columns per group (0: one group per row) and layers left as they are."""

    group_size: int
    skipped: tuple[str, ...] = ()

    name: ClassVar[str] = "awq"
    markers: ClassVar[tuple[str, ...]] = ("qweight",)

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self:
        """From ``quantization_config``; only 4 bits and the GEMM layout."""
        whole_number(settings, "bits", (BITS,))
        kind = settings.get("version") or settings.get("checkpoint_format") or settings.get("format") or "gemm"
        if str(kind).lower() != "gemm":
            raise ModelError(f"the checkpoint is AWQ in the layout {kind!r}: only 'gemm' is supported")
        return cls(group_size_setting(settings), tuple(settings.get("modules_to_not_convert") or ()))

    @classmethod
    def holding(cls, layers: Mapping[str, Form], dense: Sequence[str]) -> Self:
        """For layers of one group size."""
        sizes = {form.scheme.group_size for form in layers.values()}
        if len(sizes) > 1:
            raise InputError(f"AWQ holds one group size, the layers have {sorted(sizes)}: use 'compressed-tensors'")
        skipped = tuple(name for name in dense if name != "lm_head")
        for skip in skipped:  # other readers take the names for parts of names
            if any(skip in name for name in layers):
                raise InputError(f"{skip} is not quantized, but layers named like it are: AWQ cannot tell them apart")
        return cls(sizes.pop() if sizes else 0, skipped)

    def settings(self) -> dict[str, Any]:
        """The ``quantization_config`` to write."""
        return {
            "quant_method": "awq",
            "bits": BITS,
            "group_size": self.group_size or -1,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": list(self.skipped) or None,
        }

    def layout(self, name: str, shape: Shape, found: Layer) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
        """Dtypes and shapes for a layer [N, K]."""
        n, k = shape
        groups = Scheme(BITS, self.group_size).groups(k)
        if n % 8:
            raise ModelError(f"{name} has {n} outputs: AWQ packs multiples of 8")
        return {
            "qweight": (("I32",), (k, n // 8)),
            "qzeros": (("I32",), (groups, n // 8)),
            "scales": (("F16", "BF16", "F32"), (groups, n)),
        }

    def decode(self, name: str, shape: Shape, tensors: Tensors) -> QuantizedWeight:
        """A layer [N, K] from its tensors."""
        n, k = shape
        codes = _unpack_rows(tensors["qweight"], n).T.contiguous()
        zeros = zeros_or_none(_unpack_rows(tensors["qzeros"], n).T.contiguous(), BITS)
        scales = check_scales(name, tensors["scales"].T.contiguous())
        return QuantizedWeight(codes, scales, zeros, BITS, Scheme(BITS, self.group_size).columns(k))

    @classmethod
    def encode(cls, name: str, weight: QuantizedWeight) -> Tensors:
        """The tensors of a layer of 4 bits whose outputs are a multiple of 8; scales become float16."""
        check_plain(name, weight, "AWQ")
        if weight.bits != BITS or weight.groups is not None or weight.shape[0] % 8:
            order = " in an order by activation" if weight.groups is not None else ""
            raise InputError(
                f"{name} {list(weight.shape)} has {weight.bits} bits{order}: AWQ holds 4 bits, columns in order, "
                "outputs in multiples of 8; use format='compressed-tensors'"
            )
        zeros = weight.zeros
        if zeros is None:
            zeros = torch.full_like(weight.scales, 2 ** (BITS - 1), dtype=torch.uint8)
        return {
            "qweight": _pack_rows(weight.codes.T),
            "qzeros": _pack_rows(zeros.T),
            "scales": half_scales(name, weight, "AWQ").T.contiguous(),
        }


def _pack_rows(codes: Tensor) -> Tensor:
    """Codes [R, N] as words [R, N/8]."""
    rows, n = codes.shape
    ordered = codes.reshape(rows, n // 8, 8)[..., list(ORDER)].reshape(rows, n)
    return pack(ordered.contiguous(), BITS).T.contiguous()


def _unpack_rows(words: Tensor, n: int) -> Tensor:
    """Words [R, N/8] as codes [R, N]."""
    codes = unpack(words.T.contiguous(), BITS, n)
    places = sorted(range(8), key=ORDER.__getitem__)
    return codes.reshape(len(codes), n // 8, 8)[..., places].reshape(len(codes), n)
