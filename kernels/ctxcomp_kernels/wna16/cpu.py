"""4-bit weights on a CPU: torch's own int4 operator, with bfloat16 activations.

It is chosen for bfloat16 only: kernels/bench/wna16.py --device cpu measures it there against the dense product, and in
float32 it loses to it (its float32 path is scalar code on CPUs without AVX-512).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ctxcomp_kernels import dispatch
from ctxcomp_kernels.pack import reference as packing

GROUPS = (32, 64, 128, 256)


class CpuWeight(NamedTuple):
    """A 4-bit weight in the layout of torch's CPU operator."""

    packed: Tensor
    """uint8 ``[N, K / 2]``, the operator's own order."""
    scales_and_zeros: Tensor
    """bfloat16 ``[K / g, N, 2]``: the weight is ``(code - 8) * scale + zero``."""
    group_size: int


def prepare_cpu(
    packed: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group_size: int, k: int
) -> CpuWeight | None:
    """Repack a weight (shapes as in ``wna16.linear``) for ``linear_cpu``; None where torch's operator does not fit.

    It fits 4 bits, groups of 32, 64, 128 or 256 that divide K, and N divisible by 16, on a CPU. Scales and
    zeros are rounded to bfloat16, which moves weights by up to 2**-8 of their group's range.
    """
    n = packed.shape[1]
    if packed.device.type != "cpu" or bits != 4 or group_size not in GROUPS or k % group_size or n % 16 or not n:
        return None
    codes = packing.unpack(packed, bits, k).to(torch.int32)
    scale = scales.to(torch.float32)
    zero = torch.zeros_like(scale) if zeros is None else (8.0 - zeros.to(torch.float32)) * scale
    return CpuWeight(
        torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1),
        torch.stack([scale, zero], dim=-1).to(torch.bfloat16),
        group_size,
    )


def linear_cpu(x: Tensor, weight: CpuWeight, bias: Tensor | None = None) -> Tensor:
    """``x @ W.T + bias`` through torch's operator.

    Parameters
    ----------
    x: bfloat16 ``[..., K]``.
    weight: from ``prepare_cpu``.
    bias: ``[N]`` or None.

    Returns
    -------
    bfloat16 ``[..., N]``.
    """
    if not torch.compiler.is_compiling():
        dispatch.choose("wna16.linear_cpu", x.device, backend="torch", torch_op=True)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).contiguous()
    packed, parameters, group_size = weight
    out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed, group_size, parameters)
    if bias is not None:
        out = out + bias
    return out.view(*x.shape[:-1], packed.shape[0])
