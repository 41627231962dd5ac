"""The specification of decode attention over a quantized body and a dense tail: dequantize, then attend in float32."""
# ruff: noqa: N806

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ctxcomp_kernels.kv_attention.body import KVBody


def decode(
    q: Tensor,
    bodies: Sequence[KVBody],
    tail_k: Tensor | None,
    tail_v: Tensor | None,
    scaling: float,
    tail_valid: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """Attention of q [B, Hq, Q, d] over bodies and tail; output in the dtype of q, log-sum-exp [B, Hq, Q] float32."""
    parts = [(*body.dequantize(), body.valid) for body in bodies]
    return attend(q, parts, tail_k, tail_v, scaling, tail_valid, causal)


def attend(
    q: Tensor,
    parts: Sequence[tuple[Tensor, Tensor, Tensor | None]],
    tail_k: Tensor | None,
    tail_v: Tensor | None,
    scaling: float,
    tail_valid: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """Attention over dense parts (keys, values [B, H, n, d], valid) and the tail, which ends in the queries' tokens."""
    B, Hq, Q, d = q.shape
    keys = [part[0] for part in parts]
    values = [part[1] for part in parts]
    H = keys[0].shape[1] if keys or tail_k is None else tail_k.shape[1]
    masks = [_mask(valid, q, H, part.shape[2]) for part, _, valid in parts]
    if tail_k is not None and tail_v is not None:
        m = tail_k.shape[2]
        seen = torch.ones(Q, m, dtype=torch.bool, device=q.device)
        keys.append(tail_k)
        values.append(tail_v)
        masks.append(_mask(tail_valid, q, H, m) & (seen.tril(m - Q) if causal else seen))
    k, v, mask = torch.cat([x.float() for x in keys], 2), torch.cat([x.float() for x in values], 2), torch.cat(masks, 3)
    grouped = q.float().reshape(B, H, Hq // H, Q, d)
    logits = torch.einsum("bhgqd,bhnd->bhgqn", grouped, k) * scaling
    logits = logits.masked_fill(~mask.unsqueeze(2), -torch.inf)
    lse = logits.logsumexp(-1, keepdim=True)
    weights = torch.exp(logits - lse.nan_to_num(neginf=0.0))
    v = v.masked_fill(~mask.any(2).unsqueeze(3), 0)  # a slot that nobody sees may hold anything, NaN too
    out = torch.einsum("bhgqn,bhnd->bhgqd", weights, v)
    return out.reshape(B, Hq, Q, d).to(q.dtype), lse.reshape(B, Hq, Q)


def _mask(valid: Tensor | None, q: Tensor, heads: int, n: int) -> Tensor:
    """What each query may see, [B, H, Q, n]."""
    B, _, Q, _ = q.shape
    if valid is None:
        return torch.ones(B, heads, Q, n, dtype=torch.bool, device=q.device)
    return valid.unsqueeze(2).expand(B, heads, Q, n)
