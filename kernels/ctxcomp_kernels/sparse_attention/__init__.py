"""Keys and values of which only the largest elements are stored, and decode attention that reads them so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp_kernels.dispatch import choose
from ctxcomp_kernels.kv_attention import check_queries
from ctxcomp_kernels.kv_attention.body import check_valid
from ctxcomp_kernels.kv_attention.reference import attend
from ctxcomp_kernels.sparse_attention import reference


@dataclass(frozen=True, eq=False)
class Sparse:
    """Vectors [B, H, n, d] of which some elements are stored, the others zero.

    bitmap: int64 [B, H, n, ceil(d/64)], one bit an element, the first the lowest.
    values: [total], the stored elements tile by tile, each tile padded to a multiple of 8.
    offsets: int32 [B, H, n, ceil(d/64)], where a tile begins in ``values``, in units of 8 elements.
    d: channels.
    """

    bitmap: Tensor
    values: Tensor
    offsets: Tensor
    d: int

    @property
    def tokens(self) -> int:
        """Tokens it holds."""
        return self.bitmap.shape[2]

    def nbytes(self) -> int:
        """Bytes of bitmap, values and offsets."""
        return sum(part.numel() * part.element_size() for part in (self.bitmap, self.values, self.offsets))


def compress(x: Tensor, keep: float, *, backend: str = "") -> Sparse:
    """Keep the largest magnitudes of each head vector.

    Parameters
    ----------
    x: [B, H, n, d], floating.
    keep: part of the d elements that stays, 0 < keep <= 1; at least one does.

    Raises
    ------
    InputError: another shape, or ``keep`` out of range.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise InputError(f"expected a floating tensor [B, H, n, d], got {x.dtype} of shape {tuple(x.shape)}")
    if not 0 < keep <= 1:
        raise InputError(f"keep must be above 0 and at most 1, got {keep!r}")
    d = x.shape[3]
    count = max(1, round(keep * d))
    if x.numel() and choose("sparse_compress", x.device, backend=backend) == "triton":
        from ctxcomp_kernels.sparse_attention import compression

        return Sparse(*compression.compress(x, count), d)
    return Sparse(*reference.compress(x, count), d)


def decompress(sparse: Sparse) -> Tensor:
    """The vectors [B, H, n, d], zeros where elements were dropped."""
    return reference.decompress(sparse.bitmap, sparse.values, sparse.offsets, sparse.d)


def concatenate(parts: Sequence[Sparse]) -> Sparse:
    """One ``Sparse`` of all tokens of ``parts``, in order."""
    shifts = [0]
    for part in parts:
        shifts.append(shifts[-1] + part.values.numel() // reference.ALIGN)
    offsets = [part.offsets + shift for part, shift in zip(parts, shifts, strict=False)]
    return Sparse(
        torch.cat([part.bitmap for part in parts], 2),
        torch.cat([part.values for part in parts]),
        torch.cat(offsets, 2),
        parts[0].d,
    )


def decode(
    q: Tensor,
    keys: Sparse,
    values: Sparse,
    tail_k: Tensor | None = None,
    tail_v: Tensor | None = None,
    scaling: float | None = None,
    *,
    valid: Tensor | None = None,
    tail_valid: Tensor | None = None,
    causal: bool = True,
    backend: str = "",
) -> tuple[Tensor, Tensor]:
    """Attention of a few queries over a sparse body and a dense tail.

    Parameters
    ----------
    q: [B, Hq, Q, d], Q at most 16.
    keys, values: the body, n tokens of H heads; Hq a multiple of H.
    tail_k, tail_v: [B, H, m, d], recent tokens, or None.
    scaling: of the logits; None means d ** -0.5.
    valid: bool [B, H or 1, n], which slots of the body count. ``tail_valid``: the same for the tail.
    causal: the last Q tokens of the tail are the queries' own, and a query sees no later one.

    Returns
    -------
    out [B, Hq, Q, d] in the dtype of q, and the log-sum-exp of the logits [B, Hq, Q] in float32. A query that sees
    nothing gets zeros and minus infinity.

    Raises
    ------
    InputError: shapes that do not fit together.
    """
    heads = keys.bitmap.shape[1]
    check_queries(q, heads, tail_k, tail_v, tail_valid, causal)
    check_valid("valid", valid, q.shape[0], heads, keys.tokens)
    if keys.bitmap.shape != values.bitmap.shape or keys.d != q.shape[3] or values.d != q.shape[3]:
        raise InputError(
            f"keys and values must both be [B, H, n, {q.shape[3]}], got bitmaps {tuple(keys.bitmap.shape)} and "
            f"{tuple(values.bitmap.shape)} of d {keys.d} and {values.d}"
        )
    scale = q.shape[3] ** -0.5 if scaling is None else scaling
    if choose("sparse_attention", q.device, backend=backend) == "triton":
        from ctxcomp_kernels.sparse_attention import launch

        return launch.decode(q, keys, values, valid, tail_k, tail_v, scale, tail_valid, causal)
    parts = [(decompress(keys), decompress(values), valid)]
    return attend(q, parts, tail_k, tail_v, scale, tail_valid, causal)
