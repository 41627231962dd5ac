"""Decode attention over a quantized KV cache: packed bodies and a dense tail, in one kernel."""
# ruff: noqa: N806

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp_kernels.kv_attention.body import KVBody, check_valid

__all__ = ["MAX_QUERIES", "KVBody", "check_queries", "decode"]

MAX_QUERIES = 16


def decode(
    q: Tensor,
    body: KVBody | Sequence[KVBody] | None,
    tail_k: Tensor | None = None,
    tail_v: Tensor | None = None,
    scaling: float | None = None,
    *,
    tail_valid: Tensor | None = None,
    causal: bool = True,
    backend: str = "",
) -> tuple[Tensor, Tensor]:
    """Attention of a few queries over quantized bodies and a dense tail.

    Parameters
    ----------
    q: [B, Hq, Q, d], Q at most 16, any strides.
    body: the quantized tokens; several bodies where tokens have different widths; None for the tail alone.
    tail_k, tail_v: [B, H, m, d], recent tokens in the dtype of q, or None. Hq is a multiple of H.
    scaling: of the logits; None means d ** -0.5.
    tail_valid: bool [B, H or 1, m], which slots of the tail count; None counts all.
    causal: the last Q tokens of the tail are the queries' own, and a query sees no later one.

    Returns
    -------
    out [B, Hq, Q, d] in the dtype of q, and the log-sum-exp of the logits [B, Hq, Q] in float32. A query that sees
    nothing gets zeros and minus infinity. torch.compile keeps the operation whole.

    Raises
    ------
    InputError: shapes that do not fit together, or neither body nor tail.
    """
    from ctxcomp_kernels.kv_attention.op import kv_decode

    bodies = [] if body is None else [body] if isinstance(body, KVBody) else list(body)
    if not bodies and tail_k is None:
        raise InputError("decode needs a body, a tail or both, got neither")
    heads = bodies[0].key_codes.shape[1] if bodies else tail_k.shape[1] if tail_k is not None else 0
    check_queries(q, heads, tail_k, tail_v, tail_valid, causal)
    for part in bodies:
        part.check(heads, q.shape[3])
    out, lse = kv_decode(
        q,
        [x for b in bodies for x in _tensors(b)],
        [x for b in bodies for x in (b.value_channel, b.valid)],
        [x for b in bodies for x in (b.key_bits, b.value_bits)],
        tail_k,
        tail_v,
        tail_valid,
        q.shape[3] ** -0.5 if scaling is None else scaling,
        causal,
        backend,
    )
    return out, lse


def check_queries(
    q: Tensor, heads: int, tail_k: Tensor | None, tail_v: Tensor | None, tail_valid: Tensor | None, causal: bool
) -> None:
    """Refuse queries and a tail that do not fit together.

    Raises
    ------
    InputError: too many queries, heads that do not divide, or a tail of another shape.
    """
    if q.ndim != 4 or q.shape[2] > MAX_QUERIES:
        raise InputError(f"q must be [B, Hq, Q <= {MAX_QUERIES}, d], got shape {tuple(q.shape)}")
    B, Hq, Q, d = q.shape
    if heads < 1 or Hq % heads:
        raise InputError(f"query heads must be a multiple of KV heads, got {Hq} and {heads}")
    if (tail_k is None) != (tail_v is None):
        raise InputError("tail_k and tail_v come together: one of them is missing")
    if tail_k is None or tail_v is None:
        return
    m = tail_k.shape[2]
    if tuple(tail_k.shape) != (B, heads, m, d) or tail_v.shape != tail_k.shape:
        raise InputError(
            f"the tail must be [{B}, {heads}, m, {d}], got {tuple(tail_k.shape)} and {tuple(tail_v.shape)}"
        )
    if causal and Q > 1 and m < Q:
        raise InputError(f"the tail of {m} tokens must end in those of the {Q} queries; or pass causal=False")
    check_valid("tail_valid", tail_valid, B, heads, m)


def _tensors(body: KVBody) -> list[Tensor]:
    keys = [body.key_codes, body.key_scale, body.key_minimum]
    return [*keys, body.value_codes, body.value_scale, body.value_minimum]
