"""From tensors to launches: one per body, the last one with the tail, and the merge."""
# ruff: noqa: N803, N806

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ctxcomp_kernels.dispatch import interpreting
from ctxcomp_kernels.kv_attention.body import KVBody
from ctxcomp_kernels.kv_attention.config import Config, pick, split_sizes
from ctxcomp_kernels.kv_attention.fused import split_kernel
from ctxcomp_kernels.kv_attention.splits import merge_kernel

TYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
TAIL_TOKENS = 32  # tokens per step of the tail
MIN_TOKENS = 16  # tl.dot takes no fewer
MAX_ROWS = 64  # query rows of a program
MERGE_SPLITS = 16  # splits per step of the merge


def fits(q: Tensor, bodies: Sequence[KVBody]) -> bool:
    """Whether the kernel takes these shapes: key groups of a multiple of 16 tokens."""
    d = q.shape[3]
    if q.dtype not in TYPES or d < 16:
        return False
    for body in bodies:
        group = body.tokens // max(body.key_scale.shape[2], 1)
        per_token = body.keys_per_token and body.key_scale.shape[3] == 1
        if not (per_token or (not body.keys_per_token and group % MIN_TOKENS == 0)):
            return False
    return True


def decode(
    q: Tensor,
    bodies: Sequence[KVBody],
    tail_k: Tensor | None,
    tail_v: Tensor | None,
    scaling: float,
    tail_valid: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """Attention of q over bodies and tail; shapes and results as in ``kv_attention.decode``."""
    B, Hq, Q, d = q.shape
    q = row_contiguous(q)
    tail_k, tail_v, tail_valid = (None if x is None else row_contiguous(x) for x in (tail_k, tail_v, tail_valid))
    bodies = [body for body in bodies if body.tokens]
    config, processors = pick(q.device)
    H = tail_k.shape[1] if tail_k is not None else bodies[0].key_codes.shape[1] if bodies else Hq
    plans = [_plan(body, B * H, config, processors) for body in bodies]
    m = 0 if tail_k is None else tail_k.shape[2]
    tail = split_sizes(m, B * H, TAIL_TOKENS, config, processors)
    splits = sum(plan[1] for plan in plans) + tail[0]
    acc = torch.empty(splits, B * Hq * Q, d, dtype=torch.float32, device=q.device)
    lse = torch.empty(splits, B * Hq * Q, dtype=torch.float32, device=q.device)
    first = 0
    for i, body in enumerate(bodies or [None]):
        last = i == max(len(bodies) - 1, 0)
        plan = plans[i] if body is not None else (MIN_TOKENS, 0, 0)
        ends = (tail_k, tail_v, tail_valid, tail) if last else (None, None, None, (0, 0))
        _launch(q, body, ends, acc, lse, plan, first, H, scaling, causal and Q > 1, config)
        first += plan[1]
    out = torch.empty(B, Hq, Q, d, dtype=q.dtype, device=q.device)
    out_lse = torch.empty(B, Hq, Q, dtype=torch.float32, device=q.device)
    merge(acc, lse, out, out_lse)
    return out, out_lse


def merge(acc: Tensor, lse: Tensor, out: Tensor, out_lse: Tensor) -> None:
    """Merge splits [S, rows, d] and [S, rows] into the output and its log-sum-exp."""
    splits, n_rows, d = acc.shape
    if n_rows:
        with torch.cuda.device_of(acc):  # type: ignore[no-untyped-call]
            merge_kernel[(n_rows,)](
                acc, lse, out, out_lse, splits, n_rows, d, MERGE_SPLITS, triton.next_power_of_2(d), num_warps=4
            )


def warps(config: Config, M: int, d: int, wide: bool) -> int:
    """Warps of a program; more than configured where registers would spill: by rows, channels, bytes per token."""
    return config.warps * max(M // 16, (1 if d <= 128 else 4) * (2 if wide else 1))


def _plan(body: KVBody, heads: int, config: Config, processors: int) -> tuple[int, int, int]:
    """Tokens per step, splits and tokens per split of one body."""
    block = config.block_tokens
    if not body.keys_per_token:
        group = body.tokens // body.key_scale.shape[2]
        while group % block:
            block //= 2
    return (block, *split_sizes(body.tokens, heads, block, config, processors))


def _launch(
    q: Tensor,
    body: KVBody | None,
    tail: tuple[Tensor | None, Tensor | None, Tensor | None, tuple[int, int]],
    acc: Tensor,
    lse: Tensor,
    plan: tuple[int, int, int],
    first: int,
    H: int,
    scaling: float,
    causal: bool,
    config: Config,
) -> None:
    B, Hq, Q, d = q.shape
    tail_k, tail_v, tail_valid, (tail_splits, tail_share) = tail
    block, splits, share = plan
    if not splits + tail_splits or not q.numel():
        return
    rows = Hq // H * Q
    M = min(MAX_ROWS, max(16, triton.next_power_of_2(rows)))
    DTYPE = TYPES[torch.float32 if interpreting() and q.dtype == torch.bfloat16 else q.dtype]
    tensors, strides, constants = _body_arguments(body, q)
    n = body.tokens if body is not None else 0
    bits = (constants["KEY_BITS"], constants["VALUE_BITS"])
    widths = [d * width // 8 for width in bits]
    padded = [max(MIN_TOKENS, triton.next_power_of_2(width)) for width in widths]
    tails = [q if x is None else x for x in (tail_k, tail_v, tail_valid)]
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        split_kernel[(splits + tail_splits, H * triton.cdiv(rows, M), B)](
            q,
            *tensors,
            *tails,
            acc,
            lse,
            *q.stride()[:3],
            *strides,
            *tails[0].stride()[:3],
            *tails[1].stride()[:3],
            *mask_strides(tail_valid),
            splits,
            first,
            share,
            tail_share,
            n,
            0 if tail_k is None else tail_k.shape[2],
            n // max(1, body.key_scale.shape[2]) if body is not None else 1,
            d // body.value_scale.shape[3] if body is not None else d,
            H,
            Q,
            rows,
            B * Hq * Q,
            scaling * 1.4426950408889634,
            d,
            **constants,
            HAS_TAIL_VALID=tail_valid is not None,
            CAUSAL=causal,
            EVEN=n % block == 0 and widths == padded,
            DTYPE=DTYPE,
            ASM=not interpreting(),
            M=M,
            N=block,
            TAIL_N=TAIL_TOKENS,
            WK=padded[0],
            WV=padded[1],
            D=triton.next_power_of_2(d),
            num_warps=warps(config, M, d, constants["VALUE_GROUPS"] > 1 or 8 in bits),
            num_stages=config.stages,
        )


def _body_arguments(body: KVBody | None, q: Tensor) -> tuple[list[Tensor], list[int], dict[str, Any]]:
    """Tensors, strides and constants of a body; stand-ins for an absent one."""
    if body is None:
        absent = {"KEY_BITS": 4, "VALUE_BITS": 4, "KEYS_PER_TOKEN": True, "VALUE_GROUPS": 1}
        return [q] * 8, [0] * 22, absent | {"HAS_CHANNEL": False, "HAS_VALID": False}
    codes = [row_contiguous(body.key_codes), row_contiguous(body.value_codes)]
    keys = [codes[0], row_contiguous(body.key_scale), row_contiguous(body.key_minimum)]
    values = [codes[1], row_contiguous(body.value_scale), row_contiguous(body.value_minimum)]
    channel = None if body.value_channel is None else row_contiguous(body.value_channel)
    strides = [s for x in (*keys, *values) for s in x.stride()[:3]]
    strides += [0, 0] if channel is None else channel.stride()[:2]
    valid = None if body.valid is None else row_contiguous(body.valid)
    optional = [q if channel is None else channel, q if valid is None else valid]
    return (
        [*keys, *values, *optional],
        strides + mask_strides(valid),
        {
            "KEY_BITS": body.key_bits,
            "VALUE_BITS": body.value_bits,
            "KEYS_PER_TOKEN": body.keys_per_token,
            "VALUE_GROUPS": body.value_scale.shape[3],
            "HAS_CHANNEL": channel is not None,
            "HAS_VALID": body.valid is not None,
        },
    )


def mask_strides(mask: Tensor | None) -> list[int]:
    """Strides over batch and heads of a mask [B, H or 1, n] (0 where heads share it)."""
    if mask is None:
        return [0, 0]
    return [mask.stride(0), mask.stride(1) if mask.shape[1] > 1 else 0]


def row_contiguous(x: Tensor) -> Tensor:
    """``x`` with contiguous rows."""
    return x if x.stride(-1) == 1 else x.contiguous()
