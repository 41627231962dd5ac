"""Triton decoding of DFloat11: one lane a 64-bit chunk, first counting, then writing.

Source: DFloat11 (Zhang et al., 2025), the two-phase kernel. Deviations: blocks of 256 chunks, one flat lookup table
read through the L1 cache, and weights written directly, where the paper gathers a block's output in shared memory.
"""
# ruff: noqa: ANN001, ANN201, N803
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ctxcomp_kernels.dfloat11.reference import BLOCK_CHUNKS
from ctxcomp_kernels.dfloat11.table import LIMIT


def decode(sign_mantissa: Tensor, stream: Tensor, gaps: Tensor, positions: Tensor, lookup: Tensor, out: Tensor) -> None:
    """Write the bfloat16 weights into ``out``; shapes as in ``dfloat11.Encoded``."""
    chunks = stream.numel() - 1
    if not chunks:
        return
    with torch.cuda.device_of(out):
        decode_kernel[(triton.cdiv(chunks, BLOCK_CHUNKS),)](
            sign_mantissa,
            stream,
            gaps,
            positions,
            lookup,
            out.view(torch.int16),
            chunks,
            out.numel(),
            LIMIT=LIMIT,
            BLOCK=BLOCK_CHUNKS,
            num_warps=8,
        )


@triton.jit
def next_code(here, after, at, lookup_ptr, LIMIT: tl.constexpr):
    """Table entry (exponent << 4 | length) of the code at bit ``at`` of each chunk; past its end any entry."""
    shift = tl.minimum(at, 63)
    window = (here << shift) >> (64 - LIMIT)
    window |= after >> tl.minimum(64 - shift, 63)
    return tl.load(lookup_ptr + window.to(tl.int32), eviction_policy="evict_last").to(tl.int32)


@triton.jit
def decode_kernel(
    sign_mantissa_ptr,
    stream_ptr,
    gaps_ptr,
    positions_ptr,
    lookup_ptr,
    out_ptr,
    chunks,
    n,
    LIMIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``BLOCK`` chunks: count the codes that start in each, sum up, decode again to the right places."""
    chunk = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = chunk < chunks
    here = tl.load(stream_ptr + chunk, mask=there, other=0).to(tl.uint64)
    after = tl.load(stream_ptr + chunk + 1, mask=there, other=0).to(tl.uint64) >> (64 - LIMIT)
    gap = tl.load(gaps_ptr + chunk // 2, mask=there, other=0).to(tl.int32)
    gap = tl.where(there, (gap >> ((chunk % 2) * 4).to(tl.int32)) & 15, 64)

    at = gap
    count = tl.zeros((BLOCK,), tl.int32)
    while tl.min(at, 0) < 64:
        inside = at < 64
        entry = next_code(here, after, at, lookup_ptr, LIMIT)
        count += inside.to(tl.int32)
        at += tl.where(inside, entry & 15, 0)

    place = tl.load(positions_ptr + tl.program_id(0)) + (tl.cumsum(count, 0) - count).to(tl.int64)
    at = gap
    while tl.min(at, 0) < 64:
        inside = at < 64
        entry = next_code(here, after, at, lookup_ptr, LIMIT)
        writes = inside & (place < n)  # padding decodes to weights past the end
        other = tl.load(sign_mantissa_ptr + place, mask=writes, other=0).to(tl.int32)
        weight = (other & 0x80) << 8 | (entry >> 4) << 7 | other & 0x7F
        tl.store(out_ptr + place, weight.to(tl.int16), mask=writes)
        place += inside.to(tl.int64)
        at += tl.where(inside, entry & 15, 0)
