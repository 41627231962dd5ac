"""Triton compression to bitmap and packed non-zeros: choose and count, then write.

Source: Mustafar (Joo et al., 2025). Deviation: the threshold is found bit by bit on the numbers' own bits, so no sort.
"""
# ruff: noqa: ANN001, ANN201, N803, N806
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ctxcomp_kernels.sparse_attention.reference import ALIGN, TILE

ROWS = 16


def compress(x: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keep ``count`` elements of each vector of x [B, H, n, d]; results as in ``reference.compress``."""
    B, H, n, d = x.shape
    tiles = -(-d // TILE)
    flat = x.contiguous().view(B * H * n, d)
    bitmap = torch.empty(B, H, n, tiles, dtype=torch.int64, device=x.device)
    units = torch.empty(B, H, n, tiles, dtype=torch.int32, device=x.device)
    grid = (triton.cdiv(len(flat), ROWS),)
    integers = flat.view(torch.int32 if x.dtype == torch.float32 else torch.int16)
    width = {"T": triton.next_power_of_2(tiles), "R": ROWS, "TILE": TILE, "ALIGN": ALIGN}
    with torch.cuda.device_of(x):
        choose_kernel[grid](
            integers, bitmap, units, len(flat), d, tiles, count, BITS=8 * x.element_size() - 1, **width, num_warps=4
        )
        ends = units.view(-1).cumsum(0)
        offsets = (ends - units.view(-1)).to(torch.int32).view_as(units)
        values = x.new_zeros(int(ends[-1]) * ALIGN)
        write_kernel[grid](flat, bitmap, offsets, values, len(flat), d, tiles, **width, num_warps=4)
    return bitmap, values, offsets


@triton.jit
def choose_kernel(
    x_ptr,
    bitmap_ptr,
    units_ptr,
    rows,
    d,
    tiles,
    count,
    BITS: tl.constexpr,
    T: tl.constexpr,
    R: tl.constexpr,
    TILE: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """R vectors: the bits of the ``count`` largest magnitudes (of equals the first), and each tile's units of space."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    channel = tl.arange(0, T * TILE)
    inside = (row < rows)[:, None] & (channel < d)[None, :]
    bits = tl.load(x_ptr + row[:, None] * d + channel[None, :], mask=inside, other=0).to(tl.int32)
    magnitude = tl.where(inside, bits & 0x7FFFFFFF if BITS == 31 else bits & 0x7FFF, -1)  # orders as |x| does
    least = tl.zeros((R,), tl.int32)
    for i in tl.static_range(BITS):
        candidate = least | (1 << (BITS - 1 - i))
        enough = tl.sum((magnitude >= candidate[:, None]).to(tl.int32), 1) >= count
        least = tl.where(enough, candidate, least)
    above = magnitude > least[:, None]
    equal = (magnitude == least[:, None]).to(tl.int32)
    wanted = count - tl.sum(above.to(tl.int32), 1)
    kept = above | ((equal == 1) & (tl.cumsum(equal, 1) <= wanted[:, None]))
    tiled = tl.reshape(kept.to(tl.int64), (R, T, TILE))
    bitmap = tl.sum(tiled << tl.arange(0, TILE).to(tl.int64)[None, None, :], 2)
    units = (tl.sum(tiled, 2) + (ALIGN - 1)) // ALIGN
    t = tl.arange(0, T)
    at = row[:, None] * tiles + t[None, :]
    there = (row < rows)[:, None] & (t < tiles)[None, :]
    tl.store(bitmap_ptr + at, bitmap, mask=there)
    tl.store(units_ptr + at, units.to(tl.int32), mask=there)


@triton.jit
def write_kernel(
    x_ptr,
    bitmap_ptr,
    offsets_ptr,
    values_ptr,
    rows,
    d,
    tiles,
    T: tl.constexpr,
    R: tl.constexpr,
    TILE: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """R vectors: the chosen elements to their places."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    lane = tl.arange(0, TILE)
    for t in range(tiles):
        bitmap = tl.load(bitmap_ptr + row * tiles + t, mask=row < rows, other=0)
        offset = tl.load(offsets_ptr + row * tiles + t, mask=row < rows, other=0).to(tl.int64)
        kept = ((bitmap[:, None] >> lane.to(tl.int64)[None, :]) & 1).to(tl.int32)
        place = offset[:, None] * ALIGN + tl.cumsum(kept, 1) - 1
        x = tl.load(x_ptr + row[:, None] * d + (t * TILE + lane)[None, :], mask=kept == 1, other=0.0)
        tl.store(values_ptr + place, x, mask=kept == 1)
