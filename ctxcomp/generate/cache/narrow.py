"""Two bits have four values: what range they span matters more than that nothing lies beyond it.

On the small Llama after 1,800 steps, 8 windows of its training text: perplexity +13.6 % with the whole range and +3.0 %
with the narrowed one for "kivi2", +10.0 % and +1.1 % for "zipcache", at the same bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Of the range from the smallest to the largest entry, around its middle."""


def narrowed(x: Tensor, dim: int, group: int, bits: int) -> Tensor:
    """Entries at 2 bits clamped to the part of their group's range that quantizes them with the least squared error.

    Parameters
    ----------
    x: any shape; ``group`` entries along ``dim`` (>= 0), which they divide, share a scale.
    bits: at 4 and more nothing is clamped: the whole range is within 1 % of the best.
    """
    if bits != 2 or not x.numel():
        return x
    levels = 2**bits - 1
    groups = x.reshape(*x.shape[:dim], -1, group, *x.shape[dim + 1 :]).float()
    low, high = torch.aminmax(groups, dim=dim + 1, keepdim=True)
    best, lowest = torch.ones_like(low), torch.full_like(low, torch.inf)
    for share in SHARES:
        cut = (high - low) * (1 - share) / 2
        step = ((high - low) * share / levels).clamp(min=torch.finfo(torch.float32).tiny)
        rounded = ((groups - low - cut) / step).round_().clamp_(0, levels) * step + low + cut
        error = (rounded - groups).square_().sum(dim + 1, keepdim=True)
        best, lowest = torch.where(error < lowest, share, best), torch.minimum(error, lowest)
    cut = (high - low) * (1 - best) / 2
    return torch.clamp(groups, low + cut, high - cut).flatten(dim, dim + 1).to(x.dtype)
