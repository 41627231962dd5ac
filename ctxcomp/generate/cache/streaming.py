"""Sinks and recent tokens only: what every other method has to beat on text that is asked about."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ctxcomp.generate.cache.evictor import Evictor, LayerView


@dataclass(frozen=True, kw_only=True)
class Streaming(Evictor):
    """Keeps the first ``sinks`` tokens and the most recent.

    Source: StreamingLLM (Xiao et al., 2023). Deviation: positions stay those of the text; they are not renumbered
    within the cache.
    """

    def score(self, view: LayerView) -> Tensor:
        """The position itself, ``[B, H, n]``."""
        return view.positions.float().expand(*view.keys.shape[:3])
