"""What a tiny model shows to an eviction method after a prompt, and its true attention probabilities."""

from typing import Any

import torch
from torch import Tensor

from ctxcomp.generate.cache import CompressedCache, Evictor, KVPolicy, LayerView, install


@torch.no_grad()
def layer_views(model: Any, ids: Tensor, padding: Tensor | None = None) -> list[LayerView]:
    """The view of each layer after a prompt ``[B, n]``."""
    seen: list[LayerView] = []

    class Spy(Evictor):
        def score(self, view: LayerView) -> Tensor:
            seen.append(view)
            return torch.zeros(view.keys.shape[:3])

    install(model)
    cache = CompressedCache(model.config, KVPolicy(evictor=Spy(keep=0.5)))
    model(ids, attention_mask=padding, position_ids=rope_positions(ids, padding), past_key_values=cache)
    return seen


@torch.no_grad()
def probabilities(model: Any, ids: Tensor, padding: Tensor | None = None) -> list[Tensor]:
    """The attention probabilities of each layer as transformers' eager attention has them, ``[B, Hq, n, n]``.

    Rows of padding are zero.
    """
    model.set_attn_implementation("eager")
    out = model(ids, attention_mask=padding, position_ids=rope_positions(ids, padding), output_attentions=True)
    rows = torch.ones_like(ids) if padding is None else padding
    return [layer.float() * rows[:, None, :, None] for layer in out.attentions]


def rope_positions(ids: Tensor, padding: Tensor | None) -> Tensor:
    """The positions that ``generate`` gives the tokens."""
    return (torch.ones_like(ids) if padding is None else padding).cumsum(-1).sub(1).clamp(min=0)


def left_padding(lengths: list[int]) -> Tensor:
    """The attention mask ``[B, longest]`` of texts of these lengths."""
    longest = max(lengths)
    return torch.tensor([[0] * (longest - n) + [1] * n for n in lengths])
