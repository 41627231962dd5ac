"""Triton kernels for linear layers with packed weights of 2, 4 or 8 bits: matrix-vector, split-K dot, decode.

Letters: M rows of activations, N outputs, K inputs, P = 32 / bits codes in a word, W = K / P words along K.
Sources: GemLite's RevSplitK (Dropbox, 2024: consecutive blocks of K share one load of scales and zeros) and the split-K
kernel of Hoque et al., "Accelerating a Triton Fused Kernel for W4A16" (2024). Deviations: the scale multiplies sums,
not weights, so a weight enters a product exactly as ``code - zero``; partial sums go to memory and are added in a
fixed order by a second small kernel, so nothing is zeroed and results repeat bit for bit.
"""
# ruff: noqa: ANN001, ANN201, N803, N806, SIM300
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ctxcomp_kernels.dispatch import interpreting
from ctxcomp_kernels.pack.fused import load_codes
from ctxcomp_kernels.wna16.config import Config, pick
from ctxcomp_kernels.wna16.decode import pair

MAX_M = 64  # rows that one fused launch takes
GEMV_M = 4
ONE_GROUP = 1 << 30  # words in a group where one scale serves a whole row
REDUCE_BLOCK = 1024
TYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


@triton.jit
def group_rows(values, start, rows, column, n, inside_w, inside_n, GROUP: tl.constexpr, SHARED: tl.constexpr):
    """Scales or zeros of the words ``start + rows``: [1, BN] where all share a group, else [BW, BN]."""
    if SHARED:
        group = tl.cast(start // GROUP, tl.int64)
        address, inside = values + (group * n + column)[None, :], inside_n[None, :]
    else:
        group = ((start + rows) // GROUP).to(tl.int64)[:, None]
        address, inside = values + group * n + column[None, :], inside_w[:, None] & inside_n[None, :]
    return tl.load(address, mask=inside, other=0)


@triton.jit
def element(chunk, INDEX: tl.constexpr, DTYPE: tl.constexpr):
    """Activation ``INDEX`` of each 8-byte chunk of them: one wide load brings four (two in float32)."""
    if DTYPE.primitive_bitwidth == 32:
        value = (chunk >> (32 * INDEX)).to(tl.int32).to(DTYPE, bitcast=True)
    else:
        value = (chunk >> (16 * INDEX)).to(tl.int16).to(DTYPE, bitcast=True)
    return value


@triton.jit
def row_dot(x, word, zero, rows, inside_w, BITS: tl.constexpr, DTYPE: tl.constexpr, ASM: tl.constexpr):
    """Products of one row of activations with each word's codes, summed over the word: [BW, BN] float32."""
    HALF: tl.constexpr = 16 // BITS
    E: tl.constexpr = 64 // DTYPE.primitive_bitwidth
    total = tl.zeros(word.shape, tl.float32)
    chunks = x + rows * (2 * HALF // E)
    for q in tl.static_range((HALF + E - 1) // E):
        x_low = tl.load(chunks + q, mask=inside_w, other=0, eviction_policy="evict_last")[:, None]
        x_high = x_low
        if HALF >= E:
            x_high = tl.load(chunks + (q + HALF // E), mask=inside_w, other=0, eviction_policy="evict_last")[:, None]
        for i in tl.static_range(min(E, HALF)):
            low, high = pair(word, zero, q * E + i, BITS, tl.float32, ASM)
            v_low = element(x_low, i, DTYPE).to(tl.float32)
            v_high = element(x_high, i + HALF % E, DTYPE).to(tl.float32)
            total = tl.fma(tl.broadcast_to(v_low, word.shape), low, total)
            total = tl.fma(tl.broadcast_to(v_high, word.shape), high, total)
    return total


@triton.jit
def finish(total, bias, out, column, inside_n, split, row, m, n, SPLIT_K: tl.constexpr):
    """Write the sums [BN] of one row: with the bias to the output, or as one split's part."""
    if SPLIT_K == 1:
        if bias is not None:
            total += tl.load(bias + column, mask=inside_n, other=0.0).to(tl.float32)
        tl.store(out + row * n + column, total.to(out.dtype.element_ty), mask=inside_n)
    else:
        tl.store(out + (split * m + row) * n + column, total, mask=inside_n)


@triton.jit
def gemv_kernel(
    x,
    packed,
    scales,
    zeros,
    bias,
    out,
    n,
    words,
    M: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN: tl.constexpr,
    SPLIT_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
    STAGES: tl.constexpr,
    DTYPE: tl.constexpr,
    ASM: tl.constexpr,
):
    """M = 1 to 4 rows x [M, W * P]; a program sums BLOCK_N outputs over two blocks of BLOCK_W words at a time."""
    CHUNKS: tl.constexpr = DTYPE.primitive_bitwidth // (2 * BITS)  # of activations, per word
    column = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1).to(tl.int64)
    inside_n = (column < n) | EVEN
    rows = tl.arange(0, BLOCK_W)
    tile = packed + rows.to(tl.int64)[:, None] * n + column[None, :]
    acc0 = tl.zeros([BLOCK_W, BLOCK_N], tl.float32)
    acc1 = tl.zeros([BLOCK_W, BLOCK_N], tl.float32)
    acc2 = tl.zeros([BLOCK_W, BLOCK_N], tl.float32)
    acc3 = tl.zeros([BLOCK_W, BLOCK_N], tl.float32)
    STEP: tl.constexpr = 2 * BLOCK_W
    SHARED: tl.constexpr = GROUP % STEP == 0
    for start in tl.range(tl.program_id(1) * STEP, words, SPLIT_K * STEP, num_stages=STAGES):
        for half in tl.static_range(2):
            first = start + half * BLOCK_W
            inside_w = (first + rows < words) | EVEN
            if half == 0 or not SHARED:
                scale = group_rows(scales, first, rows, column, n, inside_w, inside_n, GROUP, SHARED).to(tl.float32)
                if zeros is None:
                    zero = tl.full([1, 1], 1 << (BITS - 1), tl.int32)
                else:
                    zero = group_rows(zeros, first, rows, column, n, inside_w, inside_n, GROUP, SHARED).to(tl.int32)
            inside = inside_w[:, None] & inside_n[None, :]
            address = tile + tl.cast(first, tl.int64) * n
            word = tl.load(address, mask=inside, other=0, eviction_policy="evict_first")
            x_row = x + first * CHUNKS
            acc0 += scale * row_dot(x_row, word, zero, rows, inside_w, BITS, DTYPE, ASM)
            if M > 1:
                x_row += words * CHUNKS
                acc1 += scale * row_dot(x_row, word, zero, rows, inside_w, BITS, DTYPE, ASM)
            if M > 2:
                x_row += words * CHUNKS
                acc2 += scale * row_dot(x_row, word, zero, rows, inside_w, BITS, DTYPE, ASM)
            if M > 3:
                x_row += words * CHUNKS
                acc3 += scale * row_dot(x_row, word, zero, rows, inside_w, BITS, DTYPE, ASM)
    finish(tl.sum(acc0, axis=0), bias, out, column, inside_n, split, 0, M, n, SPLIT_K)
    if M > 1:
        finish(tl.sum(acc1, axis=0), bias, out, column, inside_n, split, 1, M, n, SPLIT_K)
    if M > 2:
        finish(tl.sum(acc2, axis=0), bias, out, column, inside_n, split, 2, M, n, SPLIT_K)
    if M > 3:
        finish(tl.sum(acc3, axis=0), bias, out, column, inside_n, split, 3, M, n, SPLIT_K)


@triton.jit
def dot_kernel(
    x,
    packed,
    scales,
    zeros,
    bias,
    out,
    m,
    n,
    words,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN: tl.constexpr,
    SPLIT_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
    STAGES: tl.constexpr,
    DTYPE: tl.constexpr,
    ASM: tl.constexpr,
):
    """M up to 64 rows x [M, W * P], padded to BLOCK_M: one small dot per position of a code in its word."""
    CHUNKS: tl.constexpr = DTYPE.primitive_bitwidth // (2 * BITS)  # of activations, per word
    column = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1).to(tl.int64)
    row_m = tl.arange(0, BLOCK_M)
    inside_n = (column < n) | EVEN
    rows = tl.arange(0, BLOCK_W)
    tile = packed + rows.to(tl.int64)[:, None] * n + column[None, :]
    x_tile = x + row_m[:, None] * (words * CHUNKS) + rows[None, :] * CHUNKS
    SHARED: tl.constexpr = GROUP % BLOCK_W == 0
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in tl.range(tl.program_id(1) * BLOCK_W, words, SPLIT_K * BLOCK_W, num_stages=STAGES):
        inside_w = (start + rows < words) | EVEN
        scale = group_rows(scales, start, rows, column, n, inside_w, inside_n, GROUP, SHARED).to(tl.float32)
        if zeros is None:
            zero = tl.full([1, 1], 1 << (BITS - 1), tl.int32)
        else:
            zero = group_rows(zeros, start, rows, column, n, inside_w, inside_n, GROUP, SHARED).to(tl.int32)
        inside = inside_w[:, None] & inside_n[None, :]
        address = tile + tl.cast(start, tl.int64) * n
        word = tl.load(address, mask=inside, other=0, eviction_policy="evict_first")
        inside_x = (row_m < m)[:, None] & inside_w[None, :]
        part = block_dot(
            x_tile + start * CHUNKS, word, zero, scale, inside_x, BLOCK_M, BLOCK_N, BITS, SHARED, DTYPE, ASM
        )
        if SHARED:
            part *= scale
        total += part
    address = row_m[:, None] * n + column[None, :]
    inside = (row_m < m)[:, None] & inside_n[None, :]
    if SPLIT_K == 1:
        if bias is not None:
            total += tl.load(bias + column, mask=inside_n, other=0.0).to(tl.float32)[None, :]
        tl.store(out + address, total.to(out.dtype.element_ty), mask=inside)
    else:
        tl.store(out + split * m * n + address, total, mask=inside)


@triton.jit
def block_dot(
    x,
    word,
    zero,
    scale,
    inside_x,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BITS: tl.constexpr,
    SHARED: tl.constexpr,
    DTYPE: tl.constexpr,
    ASM: tl.constexpr,
):
    """The product of a block of activations with a block of words: [BM, BN] float32."""
    HALF: tl.constexpr = 16 // BITS
    E: tl.constexpr = 64 // DTYPE.primitive_bitwidth
    # bfloat16 holds 128 + code for codes below 128 only: wider ones come through float32.
    VIA: tl.constexpr = tl.float32 if (BITS == 8 and DTYPE == tl.bfloat16) or not SHARED else DTYPE
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for q in tl.static_range((HALF + E - 1) // E):
        x_low = tl.load(x + q, mask=inside_x, other=0, eviction_policy="evict_last")
        x_high = x_low
        if HALF >= E:
            x_high = tl.load(x + (q + HALF // E), mask=inside_x, other=0, eviction_policy="evict_last")
        for i in tl.static_range(min(E, HALF)):
            low, high = pair(word, zero, q * E + i, BITS, VIA, ASM)
            if not SHARED:
                low *= scale
                high *= scale
            v_low, v_high = element(x_low, i, DTYPE), element(x_high, i + HALF % E, DTYPE)
            if ASM:
                total = tl.dot(v_low, low.to(DTYPE), total)
                total = tl.dot(v_high, high.to(DTYPE), total)
            else:  # the interpreter's dot is wrong for bfloat16
                total = tl.dot(v_low.to(tl.float32), low.to(DTYPE).to(tl.float32), total)
                total = tl.dot(v_high.to(tl.float32), high.to(DTYPE).to(tl.float32), total)
    return total


@triton.jit
def reduce_kernel(parts, bias, out, size, n, SPLIT_K: tl.constexpr, BLOCK: tl.constexpr):
    """Add the splits' parts [SPLIT_K, M * N] in order, then the bias: out [M * N]."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < size
    total = tl.zeros([BLOCK], tl.float32)
    for split in tl.static_range(SPLIT_K):
        total += tl.load(parts + split * size.to(tl.int64) + index, mask=inside, other=0.0)
    if bias is not None:
        total += tl.load(bias + index % n, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + index, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def dequantize_kernel(
    packed,
    scales,
    zeros,
    out,
    n,
    k,
    group_size,
    BITS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The weight as [K, N]; any width, dense words too."""
    index = tl.program_id(0).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    column = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (index < k)[:, None] & (column < n)[None, :]
    code = load_codes(packed, n, index, column, inside, BITS)
    group = (index // group_size)[:, None] * n + column[None, :]
    zero = tl.full([1, 1], 1 << (BITS - 1), tl.int32)
    if zeros is not None:
        zero = tl.load(zeros + group, mask=inside, other=0).to(tl.int32)
    value = (code - zero).to(tl.float32) * tl.load(scales + group, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + index[:, None] * n + column[None, :], value.to(out.dtype.element_ty), mask=inside)


def linear(
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    group_size: int,
    bias: Tensor | None,
    config: Config | None = None,
) -> Tensor:
    """``x @ W.T + bias`` for x ``[M, K]``; shapes as in ``wna16.linear``.

    Up to ``MAX_M`` rows run fused where a word holds whole codes of one group; the rest is decoded and multiplied.
    ``config`` replaces the one that is stored for the device and shape.
    """
    (m, k), n = x.shape, packed.shape[1]
    if not x.numel() or not n:
        return x.new_zeros(m, n) if bias is None else bias.to(x.dtype).expand(m, n).clone()
    one_group = scales.shape[0] == 1
    whole = 32 % bits == 0 and bits > 1 and (one_group or group_size % (32 // bits) == 0)
    if m > MAX_M or not whole or (x.dtype == torch.float32 and m > GEMV_M):
        weight = dequantize(packed, scales, zeros, bits, group_size, k, x.dtype)
        return torch.nn.functional.linear(x, weight, None if bias is None else bias.to(x.dtype))
    words = packed.shape[0]
    group = ONE_GROUP if one_group else group_size * bits // 32
    config = config or pick(device_class(x.device), m, n, k)
    tensors = (whole_words(x, words * 32 // bits), packed.contiguous(), scales.contiguous(), zeros, bias)
    return _launch(config, tensors, (m, n, words, group), bits, x.dtype)


def _launch(config: Config, tensors: tuple[Any, ...], shape: tuple[int, ...], bits: int, dtype: torch.dtype) -> Tensor:
    m, n, words, group = shape
    gemv = m <= GEMV_M and (config.kernel == "gemv" or dtype == torch.float32)
    blocks = triton.cdiv(n, config.block_n)
    step = config.block_w * (2 if gemv else 1)
    split = min(config.split_k or triton.cdiv(processors(tensors[0].device), blocks), 8, triton.cdiv(words, step))
    x, packed, scales, zeros, bias = tensors
    out = torch.empty(m, n, dtype=dtype, device=x.device)
    parts = out if split == 1 else torch.empty(split, m, n, dtype=torch.float32, device=x.device)
    common = {
        "BITS": bits, "GROUP": group, "SPLIT_K": split,
        "EVEN": n % config.block_n == 0 and words % (step * split) == 0,
        "BLOCK_N": config.block_n, "BLOCK_W": config.block_w, "STAGES": config.stages, "DTYPE": TYPES[dtype],
        "ASM": not interpreting(), "num_warps": config.warps, "num_stages": config.stages, "enable_fp_fusion": True,
    }  # fmt: skip
    if gemv:
        gemv_kernel[(blocks, split)](x, packed, scales, zeros, bias, parts, n, words, M=m, **common)
    else:
        rows = max(16, triton.next_power_of_2(m))
        dot_kernel[(blocks, split)](x, packed, scales, zeros, bias, parts, m, n, words, BLOCK_M=rows, **common)
    if split > 1:
        size = m * n
        reduce_kernel[(triton.cdiv(size, REDUCE_BLOCK),)](
            parts, bias, out, size, n, SPLIT_K=split, BLOCK=REDUCE_BLOCK, enable_fp_fusion=True
        )
    return out


def dequantize(
    packed: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group_size: int, k: int, dtype: torch.dtype
) -> Tensor:
    """The weight ``[N, K]`` in ``dtype``, as a view of memory ``[K, N]``; shapes as in ``wna16.dequantize``."""
    n = packed.shape[1]
    out = torch.empty(k, n, dtype=dtype, device=packed.device)
    if out.numel():
        zeros = None if zeros is None else zeros.contiguous()
        dequantize_kernel[(triton.cdiv(k, 32), triton.cdiv(n, 128))](
            packed.contiguous(), scales.contiguous(), zeros, out, n, k, group_size,
            BITS=bits, BLOCK_K=32, BLOCK_N=128, enable_fp_fusion=True,
        )  # fmt: skip
    return out.t()


def whole_words(x: Tensor, k: int) -> Tensor:
    """Rows ``[M, K]`` padded with zeros to ``k`` columns, aligned, as 8-byte chunks int64."""
    if x.shape[1] < k:
        x = torch.nn.functional.pad(x, (0, k - x.shape[1]))
    x = x.contiguous()
    return (x.clone() if x.data_ptr() % 16 else x).view(torch.int64)


@lru_cache(maxsize=64)
def device_class(device: torch.device) -> str:
    """The key of a device in ``configs.json``: its compute capability, as "sm90"."""
    if device.type != "cuda":
        return "interpreter"
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm{major}{minor}"


@lru_cache(maxsize=64)
def processors(device: torch.device) -> int:
    """Multiprocessors of a device; the interpreter counts as two, so that it meets split sums."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
