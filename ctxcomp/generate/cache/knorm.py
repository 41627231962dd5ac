"""Small keys stay: no queries, no attention."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ctxcomp.generate.cache.evictor import Evictor, LayerView


@dataclass(frozen=True, kw_only=True)
class KNorm(Evictor):
    """Keeps the keys of the smallest norm.

    Source: "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression" (Devoto et al., 2024). Models that
    normalise their keys (Qwen3) leave little for it to tell apart.
    """

    def score(self, view: LayerView) -> Tensor:
        """The negated norm of each key, ``[B, H, n]``."""
        norms: Tensor = view.keys.float().norm(dim=-1)
        return -norms
