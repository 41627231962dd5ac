"""Evict, then merge: what leaves is averaged into the most similar token that stays, or dropped where none is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ctxcomp.errors import InputError
from ctxcomp.generate.cache.evictor import LayerView
from ctxcomp.generate.cache.h2o import accumulate
from ctxcomp.generate.cache.snapkv import SnapKV

CHUNK = 1024
"""Leaving slots that look for their class at once."""


@dataclass(frozen=True, kw_only=True)
class EMS(SnapKV):
    """Keeps by global and local attention; merges the next best into what stays.

    Parameters
    ----------
    similarity: least cosine between keys at which a token is merged; below it is of the zero class and dropped.
    reach: tokens that may be merged or kept / tokens kept; what scores below is dropped unseen.

    Source: EMS (Li et al., 2024), evict then merge per head, with a zero class. Deviations: the global score is
    ZipCache's mean per query that could see the token, so that it adds to the local one on the same scale; what is
    averaged is weighted by that score; sinks take nothing in.
    """

    running: ClassVar[bool] = True

    similarity: float = 0.7
    reach: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -1 <= self.similarity <= 1 or self.reach < 1:
            raise InputError(
                f"EMS: similarity must be in [-1, 1], reach 1 or more, got {self.similarity=}, {self.reach=}"
            )

    def observe(self, view: LayerView) -> None:
        """Add the attention of this forward's queries to the running sums."""
        accumulate(view)

    def score(self, view: LayerView) -> Tensor:
        """Mean attention of all queries that could see the slot, plus that of the last ones, ``[B, H, n]``."""
        return view.state["attention"] / (view.seen - view.positions).clamp(min=1) + super().score(view)

    def merge(self, view: LayerView, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted means ``[B, H, k, d]`` of each kept slot and those that joined its class."""
        keys, values = super().merge(view, kept)
        score, valid = self.score(view), view.valid.expand(view.keys.shape[:3])
        leaving = self._leaving(score, valid, kept)
        if not leaving.shape[-1]:
            return keys, values
        weight = score.gather(2, leaving) * valid.gather(2, leaving)
        share = score.gather(2, kept).clamp(min=torch.finfo(torch.float32).tiny)
        joined, total = torch.cat([keys, values], -1).float() * share[..., None], share.clone()
        moved = torch.cat([_take(view.keys, leaving), _take(view.values, leaving)], -1).float()
        closed = ~valid.gather(2, kept) | (valid.cumsum(-1).gather(2, kept) <= self.sinks)
        best, alike = self._classes(moved[..., : keys.shape[-1]], keys, closed)
        weight = weight * (alike >= self.similarity)
        total.scatter_add_(2, best, weight)
        joined.scatter_add_(2, best[..., None].expand_as(moved), moved * weight[..., None])
        mean = (joined / total[..., None]).to(keys.dtype)
        return mean[..., : keys.shape[-1]], mean[..., keys.shape[-1] :]

    def _leaving(self, score: Tensor, valid: Tensor, kept: Tensor) -> Tensor:
        """The best of the slots that leave, int64 ``[B, H, m]``."""
        n, k = score.shape[-1], kept.shape[-1]
        left = score.masked_fill(~valid, -1.0).scatter(2, kept, -torch.inf)
        return left.topk(min(n - k, int((self.reach - 1) * k)), dim=-1).indices

    def _classes(self, keys: Tensor, centres: Tensor, closed: Tensor) -> tuple[Tensor, Tensor]:
        """For each of ``keys [B, H, m, d]`` the most similar open centre and its cosine, both ``[B, H, m]``."""
        centres = normalize(centres.float(), dim=-1).transpose(-1, -2)
        found = [
            (normalize(part, dim=-1) @ centres).masked_fill(closed[:, :, None], -2.0).max(-1)
            for part in torch.split(keys, CHUNK, dim=2)
        ]
        return torch.cat([f.indices for f in found], 2), torch.cat([f.values for f in found], 2)


def _take(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(2, index[..., None].expand(-1, -1, -1, x.shape[-1]))
