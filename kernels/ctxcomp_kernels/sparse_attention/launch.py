"""From tensors to one launch over sparse body and dense tail, and the merge."""
# ruff: noqa: N806

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
from torch import Tensor

from ctxcomp_kernels.dispatch import interpreting
from ctxcomp_kernels.kv_attention.config import pick, split_sizes
from ctxcomp_kernels.kv_attention.launch import MAX_ROWS, TAIL_TOKENS, TYPES, mask_strides, merge, row_contiguous
from ctxcomp_kernels.sparse_attention.fused import sparse_split_kernel
from ctxcomp_kernels.sparse_attention.reference import TILE

if TYPE_CHECKING:
    from ctxcomp_kernels.sparse_attention import Sparse

BODY_TOKENS = 32  # tokens per step


def decode(
    q: Tensor,
    keys: Sparse,
    values: Sparse,
    valid: Tensor | None,
    tail_k: Tensor | None,
    tail_v: Tensor | None,
    scaling: float,
    tail_valid: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """Attention of q over the sparse body and the tail; shapes and results as in ``sparse_attention.decode``."""
    B, Hq, Q, d = q.shape
    H = keys.bitmap.shape[1]
    q = row_contiguous(q)
    valid, tail_valid = (None if x is None else row_contiguous(x) for x in (valid, tail_valid))
    config, processors = pick(q.device)
    n, m = keys.tokens, 0 if tail_k is None else tail_k.shape[2]
    splits, share = split_sizes(n, B * H, BODY_TOKENS, config, processors)
    tail_splits, tail_share = split_sizes(m, B * H, TAIL_TOKENS, config, processors)
    n_rows, rows = B * Hq * Q, Hq // H * Q
    acc = torch.empty(splits + tail_splits, n_rows, d, dtype=torch.float32, device=q.device)
    lse = torch.empty(splits + tail_splits, n_rows, dtype=torch.float32, device=q.device)
    body = [keys.bitmap, keys.offsets, keys.values, values.bitmap, values.offsets, values.values]
    tails = [q if x is None else x for x in (tail_k, tail_v)]
    tails = [row_contiguous(x) for x in tails]
    M = min(MAX_ROWS, max(16, triton.next_power_of_2(rows)))
    if n_rows and splits + tail_splits:
        with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
            sparse_split_kernel[(splits + tail_splits, H * triton.cdiv(rows, M), B)](
                q,
                *body,
                q if valid is None else valid,
                *tails,
                q if tail_valid is None else tail_valid,
                acc,
                lse,
                *q.stride()[:3],
                *(s for i in (0, 1, 3, 4) for s in body[i].stride()[:3]),
                *mask_strides(valid),
                *(s for x in tails for s in x.stride()[:3]),
                *mask_strides(tail_valid),
                splits,
                share,
                tail_share,
                n,
                m,
                H,
                Q,
                rows,
                n_rows,
                scaling * 1.4426950408889634,
                d,
                HAS_VALID=valid is not None,
                HAS_TAIL_VALID=tail_valid is not None,
                CAUSAL=causal and Q > 1,
                DTYPE=TYPES[torch.float32 if interpreting() and q.dtype == torch.bfloat16 else q.dtype],
                ASM=not interpreting(),
                M=M,
                N=BODY_TOKENS,
                T=-(-d // TILE),
                TILE=TILE,
                D=triton.next_power_of_2(d),
                num_warps=4,
                num_stages=2,
            )
    out = torch.empty(B, Hq, Q, d, dtype=q.dtype, device=q.device)
    out_lse = torch.empty(B, Hq, Q, dtype=torch.float32, device=q.device)
    merge(acc, lse, out, out_lse)
    return out, out_lse
