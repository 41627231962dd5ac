"""Triton decode attention over bitmap-sparse keys and values and a dense tail; splits and merge as in ``kv_attention``.

A tile of tokens is put together densely in registers, 64 channels at a time: the place of an element among the stored
ones is the number of bits before it. Memory traffic is that of the sparse form; the products run on tensor cores.
"""
# ruff: noqa: ANN001, ANN201, N803, RUF005
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator, assignment"

from __future__ import annotations

import triton
import triton.language as tl

from ctxcomp_kernels.kv_attention.splits import attend_tail, put_split, soften


# pointers and strides in groups, not one on each line
# fmt: off
@triton.jit
def dense_tile(bitmap_ptr, values_ptr, offsets_ptr, there, DTYPE: tl.constexpr, ASM: tl.constexpr, TILE: tl.constexpr):
    """64 channels of N tokens, [N, TILE]: pointers [N] to their bitmaps and offsets."""
    lane = tl.arange(0, TILE).to(tl.int64)[None, :]
    bitmap = tl.load(bitmap_ptr, mask=there, other=0)[:, None]
    offset = tl.load(offsets_ptr, mask=there, other=0).to(tl.int64)[:, None]
    kept = (bitmap >> lane) & 1
    if ASM:
        before = bitmap & ((tl.full((1, TILE), 1, tl.int64) << lane) - 1)
        rank = tl.inline_asm_elementwise("popc.b64 $0, $1;", "=r,l", [before], tl.int32, True, 1)
    else:
        rank = (tl.cumsum(kept, 1) - kept).to(tl.int32)
    return tl.load(values_ptr + offset * 8 + rank, mask=kept == 1, other=0.0).to(DTYPE)


@triton.jit
def attend_sparse(
    q_at, row_ok, kb_ptr, ko_ptr, k_ptr, vb_ptr, vo_ptr, v_ptr, valid_ptr, stride_kb, stride_ko, stride_vb,
    stride_vo, begin, end, scale, d, HAS_VALID: tl.constexpr, DTYPE: tl.constexpr, ASM: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, T: tl.constexpr, TILE: tl.constexpr,
):
    """Sparse slots ``begin`` to ``end``: sums by tile [M, TILE], running maximum and total [M]."""
    lane = tl.arange(0, TILE)
    q, acc = (), ()
    for t in tl.static_range(T):
        ok = row_ok[:, None] & (t * TILE + lane < d)[None, :]
        q = q + (tl.load(q_at + (t * TILE + lane)[None, :], mask=ok, other=0.0).to(DTYPE),)
        acc = acc + (tl.zeros((M, TILE), tl.float32),)
    high = tl.full((M,), float("-inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    for start in range(begin, end, N):
        slot = start + tl.arange(0, N)
        there = slot < end
        if HAS_VALID:
            there &= tl.load(valid_ptr + slot, mask=there, other=0).to(tl.int1)
        logits = tl.zeros((M, N), tl.float32)
        for t in tl.static_range(T):
            k = dense_tile(kb_ptr + slot * stride_kb + t, k_ptr, ko_ptr + slot * stride_ko + t, there, DTYPE, ASM, TILE)
            logits = tl.dot(q[t], tl.trans(k), logits, input_precision="ieee")
        logits = tl.where(there[None, :], logits * scale, float("-inf"))
        weights, factor, high, total = soften(logits, high, total)
        sums = ()
        for t in tl.static_range(T):
            v = dense_tile(vb_ptr + slot * stride_vb + t, v_ptr, vo_ptr + slot * stride_vo + t, there, DTYPE, ASM, TILE)
            sums = sums + (tl.dot(weights.to(DTYPE), v, acc[t] * factor[:, None], input_precision="ieee"),)
        acc = sums
    return acc, high, total


@triton.jit(do_not_specialize=["body_splits", "share", "tail_share", "n", "m"])
def sparse_split_kernel(
    q_ptr, kb_ptr, ko_ptr, k_ptr, vb_ptr, vo_ptr, v_ptr, valid_ptr, tk_ptr, tv_ptr, tail_valid_ptr, acc_ptr,
    lse_ptr, q_b, q_h, q_n, kb_b, kb_h, kb_n, ko_b, ko_h, ko_n, vb_b, vb_h, vb_n, vo_b, vo_h, vo_n, valid_b,
    valid_h, tk_b, tk_h, tk_n, tv_b, tv_h, tv_n, tail_valid_b, tail_valid_h, body_splits, share, tail_share, n, m,
    H, Q, rows, n_rows, scale, d, HAS_VALID: tl.constexpr, HAS_TAIL_VALID: tl.constexpr, CAUSAL: tl.constexpr,
    DTYPE: tl.constexpr, ASM: tl.constexpr, M: tl.constexpr, N: tl.constexpr, T: tl.constexpr, TILE: tl.constexpr,
    D: tl.constexpr,
):
    """One split of one KV head: of the sparse body (the first ``body_splits``), else of the dense tail."""
    split = tl.program_id(0)
    h = (tl.program_id(1) % H).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    r = (tl.program_id(1) // H) * M + tl.arange(0, M)
    row_ok = r < rows
    query = r % Q
    q_at = q_ptr + b * q_b + (h * (rows // Q) + r // Q)[:, None] * q_h + query[:, None] * q_n
    out_rows = (b * H + h) * rows + r
    if split < body_splits:
        begin = split * share
        acc, high, total = attend_sparse(
            q_at, row_ok, kb_ptr + b * kb_b + h * kb_h, ko_ptr + b * ko_b + h * ko_h, k_ptr,
            vb_ptr + b * vb_b + h * vb_h, vo_ptr + b * vo_b + h * vo_h, v_ptr,
            valid_ptr + b * valid_b + h * valid_h, kb_n, ko_n, vb_n, vo_n, begin, tl.minimum(begin + share, n),
            scale, d, HAS_VALID, DTYPE, ASM, M, N, T, TILE,
        )
        for t in tl.static_range(T):
            channel = t * TILE + tl.arange(0, TILE)
            put_split(acc[t], high, total, acc_ptr, lse_ptr, split, out_rows, row_ok, n_rows, channel, channel < d, d)
    else:
        tail_begin = (split - body_splits) * tail_share
        tail_acc, tail_high, tail_total = attend_tail(
            q_at, row_ok, query, tk_ptr + b * tk_b + h * tk_h, tv_ptr + b * tv_b + h * tv_h,
            tail_valid_ptr + b * tail_valid_b + h * tail_valid_h, tk_n, tv_n, tail_begin,
            tl.minimum(tail_begin + tail_share, m), m - Q, scale, d, HAS_TAIL_VALID, CAUSAL, DTYPE, M, 32, D,
        )
        tail_channel = tl.arange(0, D)
        tail_ok = tail_channel < d
        put_split(
            tail_acc, tail_high, tail_total, acc_ptr, lse_ptr, split, out_rows, row_ok, n_rows, tail_channel,
            tail_ok, d,
        )
