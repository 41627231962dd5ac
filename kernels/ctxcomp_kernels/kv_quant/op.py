"""Quantize-and-append as an operator of torch that writes into its buffers: torch.compile keeps it whole."""

from __future__ import annotations

import torch
from torch import Tensor

from ctxcomp_kernels.dispatch import choose
from ctxcomp_kernels.kv_quant import reference


@torch.library.custom_op("ctxcomp::kv_append", mutates_args=("codes", "scale", "minimum"))
def kv_append(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    minimum: Tensor,
    start: Tensor | None,
    offset: int,
    bits: int,
    group: int,
    by_token: bool,
    backend: str,
) -> None:
    """Quantize x [B, H, n, d] into the buffers from slot ``start + offset`` on (``start`` None: 0)."""
    if choose("kv_quant", x.device, backend=backend) == "triton":
        from ctxcomp_kernels.kv_quant import fused

        fused.append(x, codes, scale, minimum, start, offset, bits, group, by_token)
        return
    tokens_per_row = 1 if by_token else group
    first = offset if start is None else start + offset
    slots = torch.arange(x.shape[2], device=x.device) + first
    rows = torch.arange(x.shape[2] // tokens_per_row, device=x.device) + first // tokens_per_row
    quantize = reference.quantize_values if by_token else reference.quantize_keys
    block = quantize(x, bits, group, scale.dtype)
    for buffer, part, where in zip((codes, scale, minimum), block, (slots, rows, rows), strict=True):
        buffer.index_copy_(2, where, part)


@kv_append.register_fake
def _(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    minimum: Tensor,
    start: Tensor | None,
    offset: int,
    bits: int,
    group: int,
    by_token: bool,
    backend: str,
) -> None:
    return None
