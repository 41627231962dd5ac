"""What queries to come will look at, told from the distribution of those seen: fit for documents asked many times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.generate.cache.evictor import Evictor, LayerView
from ctxcomp.generate.cache.rotary import Rotary


@dataclass(frozen=True, kw_only=True)
class ExpectedAttention(Evictor):
    """Scores a token by ``(E[A] + epsilon / n) * |v|`` with ``E[A] ~ softmax(k.mu s + k'Sigma k s^2 / 2)``.

    mu and Sigma are the mean and covariance of the queries before RoPE, turned by the mean rotation of the next
    ``future`` positions; s is the attention's scaling. Deviation from the paper: the queries are those observed, turned
    back from their positions, where the paper has them from the hidden states: the same numbers.

    Parameters
    ----------
    future: positions after the last token over which the rotation is averaged.
    epsilon: added to the expected attention, in shares of an even one: how much the value's norm counts by itself.

    Source: Expected Attention (Devoto et al., 2025).
    """

    decode_window: ClassVar[int] = 32

    future: int = 512
    epsilon: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.future < 1 or self.epsilon < 0:
            raise InputError(
                f"ExpectedAttention: future must be 1 or more, epsilon 0 or more, got {self.future=}, {self.epsilon=}"
            )

    def score(self, view: LayerView) -> Tensor:
        """Expected attention times the norm of the value, ``[B, H, n]``."""
        mean, covariance = self._statistics(view)
        b, h, n, d = view.keys.shape
        keys, valid = view.keys.float(), view.valid.expand(b, h, n)
        total = torch.zeros(b, h, n, device=keys.device)
        for group in range(view.groups):
            mu, sigma = mean.view(b, h, -1, d)[:, :, group], covariance.view(b, h, -1, d, d)[:, :, group]
            logits = (keys @ mu[..., None]).squeeze(-1) * view.scaling
            logits += ((keys @ sigma) * keys).sum(-1) * (view.scaling**2 / 2)
            total += logits.masked_fill(~valid, -torch.inf).softmax(-1)
        even = 1 / valid.sum(-1, keepdim=True).clamp(min=1)
        norms: Tensor = view.values.float().norm(dim=-1)
        return (total / view.groups + self.epsilon * even) * norms

    def _statistics(self, view: LayerView) -> tuple[Tensor, Tensor]:
        """Mean ``[B, Hq, d]`` and covariance ``[B, Hq, d, d]`` of the queries as the future will turn them."""
        queries, rotary = view.queries.float(), Rotary.of(view.module)
        at = torch.arange(view.seen - queries.shape[2], view.seen, device=queries.device)
        if rotary is not None:
            queries = rotary.turn(queries, -at)
        real = self._counted(view, at)
        count = real.sum(-1).clamp(min=1)
        mean = (queries * real[..., None]).sum(2) / count[..., None]
        centred = (queries - mean[:, :, None]) * real[..., None]
        covariance = centred.transpose(-1, -2) @ centred / count[..., None, None]
        if rotary is not None:
            ahead = torch.arange(view.seen, view.seen + self.future, device=queries.device)
            turn = rotary.mean_turn(ahead, queries.shape[-1])
            mean, covariance = mean @ turn, turn.T @ covariance @ turn
        return mean, covariance

    def _counted(self, view: LayerView, at: Tensor) -> Tensor:
        """Which queries count, float ``[B, 1, w]``: neither padding nor, where there are others, the sinks."""
        real = torch.ones(len(view.keys), len(at), dtype=torch.bool, device=at.device)
        if view.padding is not None:
            real = view.padding[:, at].bool()
        index = real.cumsum(-1) - 1 + (0 if int(at[0]) == 0 else self.sinks)
        others = real & (index >= self.sinks)
        return torch.where(others.any(-1, keepdim=True), others, real)[:, None].float()
