"""Mergers: what of the dropped tokens goes into the kept ones, as one matrix of weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ctxcomp.visual.encoded import View
from ctxcomp.visual.selectors import Cells, DominantAndTargets


@dataclass(frozen=True)
class Merger:
    """Nothing: dropped is dropped."""

    @property
    def tower_layers(self) -> tuple[int, ...]:
        """Layers of the vision tower that it reads."""
        return ()

    def weights(self, view: View, scores: Tensor, chosen: Tensor) -> Tensor | None:
        """Weights ``[k, page]`` that turn the page's features into the chosen ones; None takes them as they are.

        Parameters
        ----------
        chosen: int64 ``[k]``, in the selector's order; row ends are not among them.
        """
        return None


@dataclass(frozen=True)
class CellMean(Merger):
    """The mean of each kept token's cell (LLaVolta's pooling; image down-sampling at the level of tokens)."""

    selector: Cells = field(default_factory=Cells)

    def weights(self, view: View, scores: Tensor, chosen: Tensor) -> Tensor | None:
        """See ``Merger``."""
        tokens = view.page.content
        if not len(chosen):
            return None
        cells = self.selector.cells(view, tokens, len(chosen))
        weights = torch.zeros(len(chosen), len(view.page))
        weights[:, tokens] = (cells[None] == torch.arange(len(chosen))[:, None]).float()
        return weights / weights.sum(1, keepdim=True)


@dataclass(frozen=True)
class PruMerge(Merger):
    """Each kept token takes in its nearest ones by key, weighted by their attention; the last sums up the dropped.

    Parameters
    ----------
    layer: of the tower, whose keys and attention it reads.
    neighbours: how many it takes in.

    Source: LLaVA-PruMerge (arXiv 2403.15388), unnormalised as in its code. Deviation: its extra token for what was
    dropped stands in the place of the dropped token of the highest score and is part of the budget.
    """

    layer: int = -1
    neighbours: int = 32

    @property
    def tower_layers(self) -> tuple[int, ...]:
        """See ``Merger``."""
        return (self.layer,)

    def weights(self, view: View, scores: Tensor, chosen: Tensor) -> Tensor | None:
        """See ``Merger``."""
        content = view.page.content
        if len(chosen) < 2 or len(chosen) == len(content):
            return None
        # The selector put the highest score first, so the last one is the place of what is dropped.
        strong = chosen[:-1]
        keys = torch.nn.functional.normalize(view.signal("keys", self.layer, full_width=True), dim=-1)
        near = keys[strong] @ keys[content].T
        near[torch.arange(len(strong)), torch.searchsorted(content, strong)] = -float("inf")
        nearest = content[near.topk(min(self.neighbours, len(content) - 1), dim=1).indices]
        weights = torch.zeros(len(chosen), len(view.page))
        weights[torch.arange(len(strong))[:, None], nearest] = scores[nearest].float()
        weights[torch.arange(len(strong)), strong] = 1.0
        dropped = _dropped(view, strong)
        weights[-1, dropped] = scores[dropped].float()
        return weights


@dataclass(frozen=True)
class Gather(Merger):
    """VisionZip: each target takes in the mean of the dropped tokens that are nearest to it by key.

    Parameters
    ----------
    selector: which of the kept tokens are targets.
    layer: of the tower, whose keys it reads.
    """

    selector: DominantAndTargets = field(default_factory=DominantAndTargets)
    layer: int = -2

    @property
    def tower_layers(self) -> tuple[int, ...]:
        """See ``Merger``."""
        return (self.layer,)

    def weights(self, view: View, scores: Tensor, chosen: Tensor) -> Tensor | None:
        """See ``Merger``."""
        gathering = self.selector.targets(len(chosen))
        targets = chosen[len(chosen) - gathering :]
        dropped = _dropped(view, chosen)
        if not len(dropped) or not gathering:
            return None
        weights = torch.zeros(len(chosen), len(view.page))
        weights[torch.arange(len(chosen)), chosen] = 1.0
        keys = torch.nn.functional.normalize(view.signal("keys", self.layer), dim=-1)
        nearest = (keys[dropped] @ keys[targets].T).argmax(1)
        counts = torch.bincount(nearest, minlength=gathering)
        weights[len(chosen) - gathering + nearest, dropped] = 1.0 / counts[nearest]
        return weights


def outlier_share(scores: Tensor) -> float:
    """PruMerge's own keep: the share of scores above the third quartile by more than 1.5 interquartile ranges."""
    values = scores.float().cpu().numpy()
    low, high = np.percentile(values, (25, 75))
    return float((values > high + 1.5 * (high - low)).mean())


def _dropped(view: View, chosen: Tensor) -> Tensor:
    """Content tokens that are not chosen, int64 ``[d]``."""
    left = ~view.page.structural
    left[chosen] = False
    return torch.nonzero(left).flatten()
