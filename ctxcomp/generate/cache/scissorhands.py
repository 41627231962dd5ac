"""Pivotal tokens persist: what was pivotal for many of the last queries stays."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.generate.cache.evictor import Evictor, LayerView
from ctxcomp.generate.cache.h2o import ROWS


@dataclass(frozen=True, kw_only=True)
class Scissorhands(Evictor):
    """Counts for how many queries of a window a token got more than an even share of the attention.

    Parameters
    ----------
    window: how many of the last queries count.

    Source: Scissorhands (Liu et al., 2023), which counts the queries that gave less and drops the highest counts: the
    same order. Deviations: equal counts are told apart by the mean attention; in decoding the window is at most
    ``decode_window`` queries.
    """

    window: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1:
            raise InputError(f"Scissorhands: window must be 1 or more, got {self.window}")

    def score(self, view: LayerView) -> Tensor:
        """Queries for which the slot was pivotal, plus its mean attention in [0, 1], ``[B, H, n]``."""
        asked = view.queries.shape[2]
        rows = torch.arange(max(0, asked - self.window), asked, device=view.keys.device)
        pivotal = total = torch.zeros(view.keys.shape[:3], device=view.keys.device)
        for part in torch.split(rows, ROWS):
            seen = view.per_head(view.attention(part))
            visible = (seen > 0).sum(-1, keepdim=True)
            pivotal = pivotal + (seen * visible > 1).sum(2)
            total = total + seen.sum(2)
        return pivotal + total / len(rows)
