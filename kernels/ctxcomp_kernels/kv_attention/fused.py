"""Triton decode attention over quantized bodies and a dense tail, one kernel for both, then a merge.

Grid: splits x (KV heads x blocks of rows) x batch. Each program holds all query rows of its KV head, so packed keys and
values are read once per KV head. Key scales go into the query and key minima into one number a row, both once a group;
value scales go into the attention weights; the products then run on bare codes.
Sources: split-KV decoding as in Flash-Decoding (Dao et al., 2023); folding scales as in KIVI and BitDecoding.
"""
# ruff: noqa: ANN001, ANN201, N803
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from ctxcomp_kernels.kv_attention.codes import add_grouped_values, add_values, load_rows, query_dot, zeros
from ctxcomp_kernels.kv_attention.splits import attend_tail, put_split, soften


# pointers and strides in groups, not one on each line
# fmt: off
@triton.jit
def attend_body(
    q_at, row_ok, kc_ptr, ks_ptr, km_ptr, vc_ptr, vs_ptr, vm_ptr, valid_ptr, stride_kc, stride_ks, stride_km,
    stride_vc, stride_vs, stride_vm, begin, end, group, value_group, scale, d, KEY_BITS: tl.constexpr,
    VALUE_BITS: tl.constexpr, KEYS_PER_TOKEN: tl.constexpr, VALUE_GROUPS: tl.constexpr, HAS_VALID: tl.constexpr,
    EVEN: tl.constexpr, DTYPE: tl.constexpr, ASM: tl.constexpr, M: tl.constexpr, N: tl.constexpr, WK: tl.constexpr,
    WV: tl.constexpr,
):
    """Quantized slots ``begin`` to ``end``: sums by plane [M, WV], minima's part, running maximum, total [M]."""
    wk, wv = tl.arange(0, WK), tl.arange(0, WV)
    wk_ok, wv_ok = wk < d * KEY_BITS // 8, wv < d * VALUE_BITS // 8
    q = load_rows(q_at, row_ok, d, 8 // KEY_BITS, WK, DTYPE)
    q_sum = tl.zeros((M,), tl.float32)
    if KEYS_PER_TOKEN:
        for j in tl.static_range(8 // KEY_BITS):
            q_sum += tl.sum(q[j].to(tl.float32), 1)

    acc = zeros(8 // VALUE_BITS, M, WV)
    floor = tl.zeros((M,), tl.float32)  # sum of weight * minimum, the same for all channels
    high = tl.full((M,), float("-inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    for start in range(begin, end, N):
        slot = start + tl.arange(0, N)
        there = slot < end
        k_at = kc_ptr + slot[:, None] * stride_kc + wk[None, :]
        v_at = vc_ptr + slot[:, None] * stride_vc + wv[None, :]
        if EVEN:
            k_packed = tl.load(k_at, eviction_policy="evict_first")
            v_packed = tl.load(v_at, eviction_policy="evict_first")
        else:
            k_packed = tl.load(k_at, mask=there[:, None] & wk_ok[None, :], other=0)
            v_packed = tl.load(v_at, mask=there[:, None] & wv_ok[None, :], other=0)

        if KEYS_PER_TOKEN:
            ks = tl.load(ks_ptr + slot * stride_ks, mask=there, other=0.0).to(tl.float32)
            km = tl.load(km_ptr + slot * stride_km, mask=there, other=0.0).to(tl.float32)
            logits = query_dot(q, k_packed, ks_ptr, km_ptr, d, KEY_BITS, False, DTYPE, ASM, M, N)
            logits = logits * ks[None, :] + q_sum[:, None] * km[None, :]
        else:
            row = start // group
            ks_at, km_at = ks_ptr + row * stride_ks, km_ptr + row * stride_km
            logits = query_dot(q, k_packed, ks_at, km_at, d, KEY_BITS, True, DTYPE, ASM, M, N)
        if HAS_VALID:  # what is not valid may hold anything, NaN too
            there &= tl.load(valid_ptr + slot, mask=there, other=0).to(tl.int1)
        logits = tl.where(there[None, :], logits * scale, float("-inf"))
        weights, factor, high, total = soften(logits, high, total)

        vs_at, vm_at = vs_ptr + slot * stride_vs, vm_ptr + slot * stride_vm
        if VALUE_GROUPS == 1:
            vs = tl.load(vs_at, mask=there, other=0.0).to(tl.float32)
            vm = tl.load(vm_at, mask=there, other=0.0).to(tl.float32)
            floor = floor * factor + tl.sum(weights * vm[None, :], 1)
            acc = add_values(acc, factor, weights * vs[None, :], v_packed, VALUE_BITS, DTYPE, ASM)
        else:
            acc = add_grouped_values(
                acc, factor, weights, v_packed, vs_at, vm_at, there, value_group, d, VALUE_BITS, DTYPE, ASM
            )
    return acc, floor, high, total


@triton.jit(do_not_specialize=["body_splits", "first_split", "n", "m", "share", "tail_share"])
def split_kernel(
    q_ptr, kc_ptr, ks_ptr, km_ptr, vc_ptr, vs_ptr, vm_ptr, channel_ptr, valid_ptr, tk_ptr, tv_ptr, tail_valid_ptr,
    acc_ptr, lse_ptr, q_b, q_h, q_n, kc_b, kc_h, kc_n, ks_b, ks_h, ks_n, km_b, km_h, km_n, vc_b, vc_h, vc_n, vs_b,
    vs_h, vs_n, vm_b, vm_h, vm_n, channel_b, channel_h, valid_b, valid_h, tk_b, tk_h, tk_n, tv_b, tv_h, tv_n,
    tail_valid_b, tail_valid_h, body_splits, first_split, share, tail_share, n, m, group, value_group, H, Q, rows,
    n_rows, scale, d, KEY_BITS: tl.constexpr, VALUE_BITS: tl.constexpr, KEYS_PER_TOKEN: tl.constexpr,
    VALUE_GROUPS: tl.constexpr, HAS_CHANNEL: tl.constexpr, HAS_VALID: tl.constexpr, HAS_TAIL_VALID: tl.constexpr,
    CAUSAL: tl.constexpr, EVEN: tl.constexpr, DTYPE: tl.constexpr, ASM: tl.constexpr, M: tl.constexpr,
    N: tl.constexpr, TAIL_N: tl.constexpr, WK: tl.constexpr, WV: tl.constexpr, D: tl.constexpr,
):
    """One split of one KV head: of the quantized body (the first ``body_splits``), else of the dense tail."""
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
        acc, floor, high, total = attend_body(
            q_at, row_ok, kc_ptr + b * kc_b + h * kc_h, ks_ptr + b * ks_b + h * ks_h, km_ptr + b * km_b + h * km_h,
            vc_ptr + b * vc_b + h * vc_h, vs_ptr + b * vs_b + h * vs_h, vm_ptr + b * vm_b + h * vm_h,
            valid_ptr + b * valid_b + h * valid_h, kc_n, ks_n, km_n, vc_n, vs_n, vm_n, begin,
            tl.minimum(begin + share, n), group, value_group, scale, d, KEY_BITS, VALUE_BITS, KEYS_PER_TOKEN,
            VALUE_GROUPS, HAS_VALID, EVEN, DTYPE, ASM, M, N, WK, WV,
        )
        for j in tl.static_range(8 // VALUE_BITS):
            channel = tl.arange(0, WV) * (8 // VALUE_BITS) + j
            out = acc[j] + floor[:, None]
            if HAS_CHANNEL:
                at = channel_ptr + b * channel_b + h * channel_h + channel
                out *= tl.load(at, mask=channel < d, other=0.0).to(tl.float32)[None, :]
            put_split(
                out, high, total, acc_ptr, lse_ptr, first_split + split, out_rows, row_ok, n_rows, channel,
                channel < d, d,
            )
    else:
        tail_begin = (split - body_splits) * tail_share
        tail_acc, tail_high, tail_total = attend_tail(
            q_at, row_ok, query, tk_ptr + b * tk_b + h * tk_h, tv_ptr + b * tv_b + h * tv_h,
            tail_valid_ptr + b * tail_valid_b + h * tail_valid_h, tk_n, tv_n, tail_begin,
            tl.minimum(tail_begin + tail_share, m), m - Q, scale, d, HAS_TAIL_VALID, CAUSAL, DTYPE, M, TAIL_N, D,
        )
        tail_channel = tl.arange(0, D)
        put_split(
            tail_acc, tail_high, tail_total, acc_ptr, lse_ptr, first_split + split, out_rows, row_ok, n_rows,
            tail_channel, tail_channel < d, d,
        )
