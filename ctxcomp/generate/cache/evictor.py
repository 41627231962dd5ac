"""Which tokens leave the cache: the contract of eviction methods, and the choice under a budget."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.fields import check_fields

GONE = torch.iinfo(torch.int32).max
"""The position of a slot that holds nothing: later than every query."""


@dataclass
class LayerView:
    """What one layer of the cache shows to a method: B rows, H key-value heads, Hq query heads, n slots.

    Parameters
    ----------
    module: the attention module; its ``config`` and ``layer_idx`` tell the RoPE parameters.
    keys, values: ``[B, H, n, d]``, after RoPE, dense.
    queries: ``[B, Hq, w, d]``, after RoPE, of the last w tokens: after a prompt all of it, in decoding the last few.
    positions: int ``[B, H or 1, n]``: the index of each slot's token in the (padded) sequence; ascending.
    padding: bool ``[B, seen]``, False where the sequence is padding; None if nothing is.
    seen: tokens seen so far.
    scaling: what the attention multiplies ``query @ key`` with.
    state: running values of the method, each ``[B, H, n]``: the layer appends zeros for new slots and drops
        evicted and cropped ones.
    """

    module: Any
    keys: Tensor
    values: Tensor
    queries: Tensor
    positions: Tensor
    padding: Tensor | None
    seen: int
    scaling: float
    state: dict[str, Tensor] = field(default_factory=dict)

    @property
    def groups(self) -> int:
        """Query heads that share a key-value head."""
        return self.queries.shape[1] // self.keys.shape[1]

    @property
    def valid(self) -> Tensor:
        """Bool ``[B, H or 1, n]``: slots that hold a token of the text."""
        return slot_valid(self.positions, self.padding)

    def attention(self, rows: Tensor | None = None) -> Tensor:
        """Attention probabilities, float32 ``[B, Hq, r, n]``, of some of ``queries`` (int64 ``[r]``, default all).

        Causal and without padding; rows that are padding themselves are all zeros.
        """
        w = self.queries.shape[2]
        rows = torch.arange(w, device=self.keys.device) if rows is None else rows
        at = self.seen - w + rows
        visible = (self.positions[:, :, None, :] <= at[:, None]) & self.valid[:, :, None, :]
        if self.padding is not None:
            visible = visible & self.padding[:, at][:, None, :, None]
        b, hq, _, d = self.queries.shape
        grouped = self.queries[:, :, rows].reshape(b, -1, self.groups, len(rows), d).float()
        scores = grouped @ self.keys[:, :, None].float().transpose(-1, -2) * self.scaling
        scores = scores.masked_fill(~visible[:, :, None], -torch.inf)
        return scores.softmax(-1).nan_to_num(0.0).view(b, hq, len(rows), -1)

    def per_head(self, x: Tensor) -> Tensor:
        """The mean ``[B, H, ...]`` of ``[B, Hq, ...]`` over the query heads of each key-value head."""
        return x.view(x.shape[0], -1, self.groups, *x.shape[2:]).mean(2)


@dataclass(frozen=True, kw_only=True)
class Evictor(ABC):
    """Scores the slots of a layer; the layer keeps the best under the budget, per head.

    Parameters
    ----------
    keep: tokens kept / tokens seen, in (0, 1]; give exactly one of ``keep`` and ``tokens``.
    tokens: tokens kept per layer and head.
    sinks: first tokens that always stay (attention sinks), within the budget.
    recent: last tokens that always stay, within the budget.
    interval: tokens generated between evictions; 0 evicts after prompts only.
    """

    decode_window: ClassVar[int] = 16
    """Queries of past decoding steps that are kept for ``score``; they count as bytes of the cache."""
    running: ClassVar[bool] = False
    """``observe`` is to be called after every forward, not only ``score`` when something must leave."""

    keep: float | None = None
    tokens: int | None = None
    sinks: int = 4
    recent: int = 32
    interval: int = 128

    def __post_init__(self) -> None:
        check_fields(self)
        name = type(self).__name__
        if (self.keep is None) == (self.tokens is None):
            raise InputError(f"{name} takes exactly one of keep=F and tokens=N, got keep={self.keep}, {self.tokens=}")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise InputError(f"{name}: keep must be in (0, 1], got {self.keep}: it is tokens kept / tokens seen")
        if self.tokens is not None and self.tokens < 1:
            raise InputError(f"{name}: tokens must be 1 or more, got {self.tokens}")
        if min(self.sinks, self.recent, self.interval) < 0:
            raise InputError(f"{name}: sinks, recent and interval must be 0 or more")

    @abstractmethod
    def score(self, view: LayerView) -> Tensor:
        """Importance ``[B, H, n]`` of every slot: the higher, the longer it stays."""

    def observe(self, view: LayerView) -> None:  # noqa: B027
        """Update ``view.state`` after a forward, whose queries are in ``view.queries``."""

    def merge(self, view: LayerView, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, H, k, d]`` of the slots that stay, int64 ``[B, H, k]`` ascending.

        A method that merges what leaves into what stays overrides this.
        """
        index = kept[..., None].expand(-1, -1, -1, view.keys.shape[-1])
        return view.keys.gather(2, index), view.values.gather(2, index)

    def budget(self, seen: int) -> int:
        """Slots that may stay of ``seen`` tokens, at least 1."""
        return min(seen, self.tokens or max(1, math.ceil(float(self.keep or 0) * seen - 1e-9)))


def slot_valid(positions: Tensor, padding: Tensor | None) -> Tensor:
    """Bool ``[B, H or 1, n]``: which slots hold a token of the text."""
    valid = positions != GONE
    if padding is None:
        return valid
    _, h, n = positions.shape
    columns = positions.clamp(max=padding.shape[1] - 1).long().expand(padding.shape[0], h, n)
    return valid & padding.gather(1, columns.reshape(padding.shape[0], -1)).view_as(columns)


def choose(evictor: Evictor, view: LayerView) -> Tensor:
    """The slots that stay, int64 ``[B, H, k]`` ascending, k = the budget of ``view.seen``.

    Rows with padding keep as many tokens of their own as they would alone; padding fills the rest.
    """
    b, h, n, _ = view.keys.shape
    valid = view.valid.expand(b, h, n)
    score = evictor.score(view).float().masked_fill(~valid, -torch.inf)
    rank = _rank(_protect(score, evictor, valid))
    lengths = view.padding.sum(1).tolist() if view.padding is not None else [view.seen] * b
    budgets = torch.tensor([evictor.budget(max(length, 1)) for length in lengths], device=rank.device)
    chosen = (rank < budgets[:, None, None]) & valid
    filler = ~chosen & ~valid
    order = torch.where(chosen, rank, torch.where(filler, n + rank, 2 * n + rank))
    k = min(n, evictor.budget(view.seen))
    return order.topk(k, largest=False).indices.sort(-1).values


def _protect(score: Tensor, evictor: Evictor, valid: Tensor) -> Tensor:
    """Scores with the sinks above everything, then the recent tokens from the last backwards."""
    n = score.shape[-1]
    first = valid.cumsum(-1) - 1
    last = valid.flip(-1).cumsum(-1).flip(-1) - 1
    age = torch.arange(n, device=score.device, dtype=score.dtype)
    top = torch.finfo(score.dtype).max
    level = _rank(score).neg().to(score.dtype)  # whatever the scale of the scores, ranks compare with the protected
    level = torch.where(valid & (last < evictor.recent), n + age, level)
    level = torch.where(valid & (first < evictor.sinks), 3 * n - age, level)
    return level.masked_fill(~valid, -top)


def _rank(score: Tensor) -> Tensor:
    """The rank of every slot along the last dimension, 0 = highest; equal scores: the later first."""
    n = score.shape[-1]
    order = n - 1 - score.flip(-1).sort(dim=-1, descending=True, stable=True).indices
    return torch.empty_like(order).scatter_(-1, order, torch.arange(n, device=order.device).expand_as(order))
