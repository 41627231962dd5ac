"""Split-KV decode attention: the running softmax, the dense tail, and the merge of the splits.

Rows are the queries of one KV head: row r is query ``r % Q`` of query head ``r // Q`` in the group (GQA packing).
Logits are in powers of two. Weights are kept ``2**SHIFT`` times too large, which the division by their sum undoes:
weight times value scale then stays clear of float16's subnormal numbers.
"""
# ruff: noqa: ANN001, ANN201, N803
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

SHIFT = tl.constexpr(6.0)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def soften(logits, high, total):
    """One step of the running softmax: logits [M, N] -> weights, factor for what was summed before, new state [M]."""
    new = tl.maximum(high, tl.max(logits, 1))
    base = tl.where(new == float("-inf"), 0.0, new)
    weights = tl.exp2(logits - base[:, None] + SHIFT)
    factor = tl.exp2(high - base)
    return weights, factor, new, total * factor + tl.sum(weights, 1)


@triton.jit
def put_split(acc, high, total, acc_ptr, lse_ptr, split, rows, row_ok, n_rows, channel, channel_ok, d):
    """Write one split's output [M, D] and log-sum-exp [M] (base 2); a row that saw nothing gets zeros and -inf."""
    seen = total != 0  # not > 0: NaN must stay visible
    acc = acc / tl.where(seen, total, 1.0)[:, None]
    lse = tl.where(seen, high + tl.log2(tl.where(seen, total, 1.0)) - SHIFT, float("-inf"))
    at = split.to(tl.int64) * n_rows + rows
    tl.store(lse_ptr + at, lse, mask=row_ok)
    tl.store(acc_ptr + at[:, None] * d + channel[None, :], acc, mask=row_ok[:, None] & channel_ok[None, :])


@triton.jit
def attend_tail(
    q_at,
    row_ok,
    query,
    k_ptr,
    v_ptr,
    valid_ptr,
    stride_kn,
    stride_vn,
    begin,
    end,
    causal_from,
    scale,
    d,
    HAS_VALID: tl.constexpr,
    CAUSAL: tl.constexpr,
    DTYPE: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
):
    """Dense slots ``begin`` to ``end``: sums [M, D], maximum, total [M]; query i sees up to ``causal_from + i``."""
    channel = tl.arange(0, D)
    channel_ok = channel < d
    q = tl.load(q_at + channel[None, :], mask=row_ok[:, None] & channel_ok[None, :], other=0.0).to(DTYPE)
    acc = tl.zeros((M, D), tl.float32)
    high = tl.full((M,), float("-inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    for start in range(begin, end, N):
        slot = start + tl.arange(0, N)
        there = slot < end
        inside = there[:, None] & channel_ok[None, :]
        k = tl.load(k_ptr + slot[:, None] * stride_kn + channel[None, :], mask=inside, other=0.0).to(DTYPE)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if HAS_VALID:  # what is not valid may hold anything, NaN too
            there &= tl.load(valid_ptr + slot, mask=there, other=0).to(tl.int1)
            inside = there[:, None] & channel_ok[None, :]
        seen = tl.broadcast_to(there[None, :], (M, N))
        if CAUSAL:
            seen &= slot[None, :] <= causal_from + query[:, None]
        logits = tl.where(seen, logits, float("-inf"))
        weights, factor, high, total = soften(logits, high, total)
        v = tl.load(v_ptr + slot[:, None] * stride_vn + channel[None, :], mask=inside, other=0.0).to(DTYPE)
        acc = tl.dot(weights.to(DTYPE), v, acc * factor[:, None], input_precision="ieee")
    return acc, high, total


@triton.jit
def merge_kernel(acc_ptr, lse_ptr, out_ptr, out_lse_ptr, splits, n_rows, d, S: tl.constexpr, D: tl.constexpr):
    """One row: the splits' outputs [splits, rows, d], weighed by their log-sum-exp, to the output and its own."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, D)
    channel_ok = channel < d
    acc = tl.zeros((D,), tl.float32)
    high = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    for start in range(0, splits, S):
        split = start + tl.arange(0, S)
        lse = tl.load(lse_ptr + split.to(tl.int64) * n_rows + row, mask=split < splits, other=float("-inf"))
        new = tl.maximum(high, tl.max(lse, 0))
        base = tl.where(new == float("-inf"), 0.0, new)
        weight = tl.exp2(lse - base)
        factor = tl.exp2(high - base)
        at = (split.to(tl.int64) * n_rows + row)[:, None] * d + channel[None, :]
        part = tl.load(acc_ptr + at, mask=(split < splits)[:, None] & channel_ok[None, :], other=0.0)
        acc = acc * factor + tl.sum(part * weight[:, None], 0)
        total = total * factor + tl.sum(weight, 0)
        high = new
    seen = total != 0
    safe = tl.where(seen, total, 1.0)
    tl.store(out_ptr + row * d + channel, (acc / safe).to(out_ptr.dtype.element_ty), mask=channel_ok)
    tl.store(out_lse_ptr + row, tl.where(seen, (high + tl.log2(safe)) * LN2, float("-inf")))
