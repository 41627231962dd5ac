"""What was looked at most, over all of the text so far, and the recent half."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.generate.cache.evictor import Evictor, LayerView

ROWS = 64
"""Queries whose attention is worked out at once."""


@dataclass(frozen=True, kw_only=True)
class H2O(Evictor):
    """Keeps the tokens with the most attention, summed over every query so far, and recent ones.

    Parameters
    ----------
    share: of the budget that goes to the most recent tokens, in [0, 1].

    Source: H2O (Zhang et al., 2023).
    """

    running: ClassVar[bool] = True

    share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.share <= 1:
            raise InputError(f"H2O: share must be in [0, 1], got {self.share}")

    def observe(self, view: LayerView) -> None:
        """Add the attention of this forward's queries to the running sums."""
        accumulate(view)

    def score(self, view: LayerView) -> Tensor:
        """Summed attention ``[B, H, n]``; infinite for the recent share of the budget."""
        total = view.state["attention"]
        valid = view.valid.expand_as(total)
        newer = valid.flip(-1).cumsum(-1).flip(-1) - 1
        lengths = view.padding.sum(1).tolist() if view.padding is not None else [view.seen] * len(total)
        recent = torch.tensor([int(self.share * self.budget(max(1, length))) for length in lengths])
        return total.masked_fill(newer < recent.to(newer.device)[:, None, None], torch.inf)


def accumulate(view: LayerView) -> None:
    """Add to ``view.state["attention"]``, ``[B, H, n]``, what each slot gets from the queries of a forward."""
    queries = torch.arange(view.queries.shape[2], device=view.keys.device)
    total = view.state.get("attention", torch.zeros(view.keys.shape[:3], device=view.keys.device))
    for rows in torch.split(queries, ROWS):
        total = total + view.per_head(view.attention(rows)).sum(2)
    view.state["attention"] = total
