"""Tokens at random, seeded: the honest baseline."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctxcomp.generate.cache.evictor import Evictor, LayerView


@dataclass(frozen=True, kw_only=True)
class Random(Evictor):
    """Every token has an equal chance, each head its own draw.

    Parameters
    ----------
    seed: of the draw, to which layer and position add: a token keeps its luck for as long as it lives.
    """

    seed: int = 0

    def score(self, view: LayerView) -> Tensor:
        """Uniform numbers, ``[B, H, n]``."""
        heads = view.keys.shape[1]
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + int(view.module.layer_idx))
        luck = torch.rand(view.seen, heads, generator=generator).T.to(view.keys.device)
        at = view.positions.clamp(max=view.seen - 1).long().expand(*view.keys.shape[:3])
        return luck.expand(len(at), -1, -1).gather(2, at)
