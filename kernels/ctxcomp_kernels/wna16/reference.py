"""Specification of the linear layer with packed weights: decode to float32, multiply in float32.

``W[n, k] = (code[n, k] - zero[k // g, n]) * scale[k // g, n]``, with ``zero = 2 ** (bits - 1)`` where none is stored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctxcomp_kernels.pack.reference import unpack_columns

CHUNK = 1 << 24  # weights decoded at once: 64 MiB of float32


def dequantize(
    packed: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group_size: int, k: int, dtype: torch.dtype
) -> Tensor:
    """The weight ``[N, K]`` in ``dtype``, rounded once from float32.

    Parameters
    ----------
    packed: int32 ``[ceil(K * bits / 32), N]``.
    scales: floating ``[ceil(K / g), N]``.
    zeros: uint8 ``[ceil(K / g), N]``, or None for symmetric codes.
    bits, group_size, k: width of a code, columns that share a scale, columns.
    dtype: of the result.
    """
    groups, n = scales.shape
    codes = unpack_columns(packed, bits, k).to(torch.float32)
    missing = groups * group_size - k
    if missing:
        codes = torch.cat([codes, codes.new_zeros(missing, n)])
    zero = 2.0 ** (bits - 1) if zeros is None else zeros.to(torch.float32)[:, None]
    weight = codes.view(groups, group_size, n).sub_(zero).mul_(scales.to(torch.float32)[:, None])
    return weight.view(-1, n)[:k].t().to(dtype)


def linear(
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    group_size: int,
    bias: Tensor | None = None,
) -> Tensor:
    """``x @ W.T + bias``, accumulated in float32 and rounded once.

    Parameters
    ----------
    x: floating ``[M, K]``.
    packed, scales, zeros, bits, group_size: the weight, as in ``dequantize``.
    bias: floating ``[N]``, or None.

    Returns
    -------
    ``[M, N]`` in the dtype of ``x``.
    """
    k, n = x.shape[1], packed.shape[1]
    out = torch.empty(x.shape[0], n, dtype=x.dtype, device=x.device)
    wide = x.to(torch.float32)
    step = max(1, CHUNK // max(k, 1))
    for start in range(0, n, step):
        part = slice(start, start + step)
        zero = None if zeros is None else zeros[:, part]
        weight = dequantize(packed[:, part], scales[:, part], zero, bits, group_size, k, torch.float32)
        product = wide @ weight.t()
        out[:, part] = product if bias is None else product + bias[part].to(torch.float32)
    return out
