"""Triton kernel that quantizes a block of keys or values and packs it straight into preallocated buffers."""
# ruff: noqa: ANN001, ANN201, N803, N806
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 32  # tokens a program takes where each token has its own scale


def append(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    minimum: Tensor,
    start: Tensor | None,
    offset: int,
    bits: int,
    group: int,
    by_token: bool,
) -> None:
    """Quantize x [B, H, n, d] into the buffers from slot ``start + offset`` on; shapes as in ``kv_quant``."""
    B, H, n, d = x.shape
    if not x.numel():
        return
    rows, width = (ROWS, group) if by_token else (group, d)
    grid = (B * H, triton.cdiv(n, rows), d // width)
    with torch.cuda.device_of(x):
        append_kernel[grid](
            x,
            codes,
            scale,
            minimum,
            start if start is not None else x,
            offset,
            H,
            n,
            width,
            rows,
            *x.stride(),
            *codes.stride(),
            *scale.stride(),
            *minimum.stride(),
            HAS_START=start is not None,
            BY_TOKEN=by_token,
            BITS=bits,
            ROWS=triton.next_power_of_2(rows),
            WIDTH=triton.next_power_of_2(width),
            num_warps=4,
        )


@triton.jit(do_not_specialize=["offset", "n"])
def append_kernel(
    x_ptr,
    codes_ptr,
    scale_ptr,
    minimum_ptr,
    start_ptr,
    offset,
    H,
    n,
    width,
    rows,
    x_b,
    x_h,
    x_n,
    x_d,
    c_b,
    c_h,
    c_n,
    c_d,
    s_b,
    s_h,
    s_n,
    s_d,
    m_b,
    m_h,
    m_n,
    m_d,
    HAS_START: tl.constexpr,
    BY_TOKEN: tl.constexpr,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One tile of one head: [rows, width] of x, rows a token group (BY_TOKEN: ROWS tokens, width a channel group)."""
    PER: tl.constexpr = 8 // BITS
    LEVELS: tl.constexpr = (1 << BITS) - 1
    b, h = (tl.program_id(0) // H).to(tl.int64), (tl.program_id(0) % H).to(tl.int64)
    tile, column = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    first = offset.to(tl.int64)
    if HAS_START:
        first += tl.load(start_ptr).to(tl.int64)

    r, c = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    token = tile * rows + r
    inside = ((r < rows) & (token < n))[:, None] & (c < width)[None, :]
    at = x_ptr + b * x_b + h * x_h + token[:, None] * x_n + (column * width + c)[None, :] * x_d
    x = tl.load(at, mask=inside, other=0.0).to(tl.float32)  # [ROWS, WIDTH]

    axis: tl.constexpr = 1 if BY_TOKEN else 0
    low = tl.min(tl.where(inside, x, float("inf")), axis=axis)
    high = tl.max(tl.where(inside, x, float("-inf")), axis=axis)
    # `low` is a value of x, so exact in the parameters' dtype unless that is narrower than x
    minimum = low.to(minimum_ptr.dtype.element_ty)
    span = tl.maximum(high - minimum.to(tl.float32), 0.0)
    scale = tl.div_rn(span, tl.full(span.shape, LEVELS, tl.float32)).to(scale_ptr.dtype.element_ty)
    if BY_TOKEN:
        row, item = first + token, column + r * 0
        keep = (r < rows) & (token < n)
    else:
        row, item = first // rows + tile + c * 0, column * width + c
        keep = c < width
    tl.store(scale_ptr + b * s_b + h * s_h + row * s_n + item * s_d, scale, mask=keep)
    tl.store(minimum_ptr + b * m_b + h * m_h + row * m_n + item * m_d, minimum, mask=keep)

    step = scale.to(tl.float32)
    step = tl.expand_dims(tl.where(step == 0.0, 1.0, step), axis)
    shifted = x - tl.expand_dims(minimum.to(tl.float32), axis)
    code = tl.floor(tl.div_rn(shifted, tl.broadcast_to(step, (ROWS, WIDTH))) + 0.5)
    code = tl.minimum(tl.maximum(code, 0.0), LEVELS).to(tl.int32)
    planes = tl.reshape(code, (ROWS, WIDTH // PER, PER)) << (tl.arange(0, PER) * BITS)[None, None, :]
    packed = tl.sum(planes, axis=2).to(tl.uint8)  # [ROWS, WIDTH / PER]

    w = tl.arange(0, WIDTH // PER)
    there = ((r < rows) & (token < n))[:, None] & (w < width // PER)[None, :]
    to = codes_ptr + b * c_b + h * c_h + (first + token)[:, None] * c_n + (column * (width // PER) + w)[None, :] * c_d
    tl.store(to, packed, mask=there)
