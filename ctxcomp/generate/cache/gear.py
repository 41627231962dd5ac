"""Quantization, plus what it got wrong: a low-rank part for what errors share, sparse entries for outliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.generate.cache.codec import Block
from ctxcomp.generate.cache.kivi import Kivi

ROUNDS = 2
"""Power iterations: more did not lower the error."""


@dataclass(frozen=True, kw_only=True)
class Gear(Kivi):
    """``X = Q(X - S) + S + L``: quantized body, outliers S, and L of a low rank for the residual, per head and block.

    Parameters
    ----------
    bits, block, group, residual: of the quantized body, as in ``Kivi``.
    rank: of L.
    sparse: outliers / entries, half of them the largest and half the smallest, per key channel and per value token.

    Source: GEAR (Kang et al., 2024). Deviation: outliers are set to the mean of the largest and the smallest value that
    is left, not of all; a block is a prompt or ``block`` tokens.
    """

    joins: ClassVar[bool] = False
    fused: ClassVar[bool] = False

    bits: int = 2  # type: ignore[assignment]
    rank: int = 4
    sparse: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits not in (8, 4, 2) or self.rank < 0 or not 0 <= self.sparse < 0.5:
            raise InputError(
                f"Gear: bits must be 8, 4 or 2, rank 0 or more, sparse in [0, 0.5), "
                f"got {self.bits=}, {self.rank=}, {self.sparse=}"
            )

    def encode(self, keys: Tensor, values: Tensor, saliency: Tensor | None = None) -> Block:
        """The block of ``Kivi``, with indices and values of the outliers and the two factors of L."""
        parts: list[Tensor] = []
        tensors: dict[str, Tensor] = {}
        for name, x, dim in (("key", keys, 2), ("value", values, 3)):
            index = _outliers(x, dim, self.sparse)
            kept = x.gather(dim, index)
            parts.append(_without(x, index, dim))
            tensors |= {f"{name}_index": index.to(_index_dtype(x.shape[dim])), f"{name}_outliers": kept}
        block = super().encode(parts[0], parts[1])
        for name, x, decoded in zip(("key", "value"), parts, super().decode(block), strict=True):
            left, right = _low_rank((x - decoded).float(), self.rank)
            tensors |= {f"{name}_left": left.to(x.dtype), f"{name}_right": right.to(x.dtype)}
        block.tensors |= tensors
        return block

    def decode(self, block: Block) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, H, n, d]``."""
        out, held = [], block.tensors
        for name, x, dim in zip(("key", "value"), super().decode(block), (2, 3), strict=True):
            whole = x + held[f"{name}_left"] @ held[f"{name}_right"].transpose(-1, -2)
            out.append(whole.scatter(dim, held[f"{name}_index"].long(), held[f"{name}_outliers"]))
        return out[0], out[1]


def _outliers(x: Tensor, dim: int, share: float) -> Tensor:
    """Indices along ``dim`` of the largest and the smallest entries, int64."""
    half = round(share * x.shape[dim] / 2) if share else 0
    if share and not half:
        half = 1
    top = x.topk(half, dim=dim).indices
    return torch.cat([top, x.topk(half, dim=dim, largest=False).indices], dim=dim)


def _without(x: Tensor, index: Tensor, dim: int) -> Tensor:
    """The tensor with the entries of ``index`` in the middle of the others."""
    hidden = torch.zeros_like(x, dtype=torch.bool).scatter_(dim, index, True)
    high = x.masked_fill(hidden, -torch.inf).amax(dim, keepdim=True)
    low = x.masked_fill(hidden, torch.inf).amin(dim, keepdim=True)
    return torch.where(hidden, (high + low) / 2, x)


def _low_rank(residual: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors ``[B, H, n, r]`` and ``[B, H, d, r]`` whose product is close to ``residual [B, H, n, d]``."""
    b, h, n, d = residual.shape
    rank = min(rank, n, d)
    generator = torch.Generator().manual_seed(rank)
    right = torch.randn(d, rank, generator=generator).to(residual.device).expand(b, h, d, rank)
    left = residual @ right
    for _ in range(ROUNDS):
        right = torch.linalg.qr(residual.transpose(-1, -2) @ left).Q
        left = residual @ right
    return left, right


def _index_dtype(size: int) -> torch.dtype:
    if size <= 256:
        return torch.uint8
    return torch.int16 if size <= 32768 else torch.int32
