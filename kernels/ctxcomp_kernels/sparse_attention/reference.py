"""The specification of bitmap-sparse keys and values: per-token magnitude pruning, 64-element tiles.

Source: Mustafar (Joo et al., 2025). Deviation: exactly ``count`` elements stay in each head vector (of equal magnitudes
the lower index), where the paper's threshold may keep more.
"""

from __future__ import annotations

import torch
from torch import Tensor

TILE = 64
ALIGN = 8


def largest(x: Tensor, count: int) -> Tensor:
    """Mask of the ``count`` largest magnitudes of each vector [..., d]; of equals the lower index."""
    order = x.abs().argsort(dim=-1, descending=True, stable=True)[..., :count]
    return torch.zeros_like(x, dtype=torch.bool).scatter_(-1, order, True)


def compress(x: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keep ``count`` elements of each vector of x [B, H, n, d].

    Returns
    -------
    bitmap: int64 [B, H, n, T], T = ceil(d / 64); bit i of tile t is element 64 t + i.
    values: [total], the kept elements of a tile in order, padded with zeros to a multiple of 8.
    offsets: int32 [B, H, n, T], where a tile begins, in units of 8 elements.
    """
    d = x.shape[-1]
    tiles = -(-d // TILE)
    kept = torch.nn.functional.pad(largest(x, count), (0, tiles * TILE - d)).view(*x.shape[:-1], tiles, TILE)
    tiled = torch.nn.functional.pad(x, (0, tiles * TILE - d)).view(*x.shape[:-1], tiles, TILE)
    bitmap = (kept.long() << torch.arange(TILE, device=x.device)).sum(-1)
    rank = kept.long().cumsum(-1) - 1
    units = (rank[..., -1] + ALIGN) // ALIGN
    ends = units.flatten().cumsum(0).view(units.shape)
    offsets = ends - units
    values = x.new_zeros(int(ends.flatten()[-1]) * ALIGN if ends.numel() else 0)
    values[(offsets.unsqueeze(-1) * ALIGN + rank)[kept]] = tiled[kept]
    return bitmap, values, offsets.int()


def decompress(bitmap: Tensor, values: Tensor, offsets: Tensor, d: int) -> Tensor:
    """The pruned vectors [B, H, n, d], zeros put back."""
    bits = (bitmap.unsqueeze(-1) >> torch.arange(TILE, device=bitmap.device)) & 1
    where = offsets.long().unsqueeze(-1) * ALIGN + bits.cumsum(-1) - 1
    kept = bits.bool()
    out = values.new_zeros(kept.shape)
    out[kept] = values[where[kept]]
    return out.flatten(-2)[..., :d]
