"""Queries and keys of chosen attention layers, read while a tower or a language model runs.

The attention "ctxcomp_watch" is registered through transformers' own interfaces and is sdpa with an ear; the module's
own attention comes back when the watch ends. Attention weights are made from the queries and keys afterwards, one
head at a time, and only where a method asks: ``output_attentions`` is empty under sdpa, and what the vision towers of
the Qwen family return under that name are no weights.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

NAME = "ctxcomp_watch"
_lock = threading.RLock()


class Seen(Exception):  # noqa: N818 - it ends a forward pass that has shown enough, and is no error
    """Everything that was wanted has been seen."""


@dataclass
class Heard:
    """One call of an attention: query ``[B, H, q, d]``, key ``[B, Hkv, k, d]``, their scale and additive mask."""

    query: Tensor
    key: Tensor
    scale: float
    mask: Tensor | None


@dataclass
class Watch:
    """What has been heard: for each wanted layer its calls, several where a layer works image by image."""

    wanted: frozenset[int]
    stop: bool
    heard: dict[int, list[Heard]] = field(default_factory=dict)
    _order: dict[int, int] = field(default_factory=dict)

    def hear(self, module: Any, call: Heard) -> None:
        """Note a call if its layer is wanted; layers are numbered as they first speak."""
        layer = self._order.setdefault(id(module), len(self._order))
        if layer in self.wanted:
            self.heard.setdefault(layer, []).append(call)
        if self.stop and layer == max(self.wanted):
            raise Seen


_watch: ContextVar[Watch | None] = ContextVar("ctxcomp_watch", default=None)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    listening = _watch.get()
    if listening is not None:
        scaling = options.get("scaling")
        scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
        listening.hear(module, Heard(query.detach(), key.detach(), scale, attention_mask))
    result: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return result


@contextmanager
def watch(model: Any, layers: Sequence[int], *, stop: bool = False) -> Iterator[dict[int, list[Heard]]]:
    """Within the block the attention layers of ``model`` are heard.

    Parameters
    ----------
    model: a tower or language model of transformers; it runs under sdpa meanwhile. One watch at a time.
    layers: numbers from 0, or from -1 backwards; none watches nothing and leaves the module as it is.
    stop: end the forward pass at the first call of the last wanted layer; the block catches ``Seen``.
    """
    if not layers:
        yield {}
        return
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import AttentionInterface

    depth = depth_of(model)
    with _lock:
        AttentionInterface.register(NAME, _attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        before = model.config._attn_implementation
        model.set_attn_implementation(NAME)
        listening = Watch(frozenset(layer % depth for layer in layers), stop)
        token = _watch.set(listening)
        try:
            yield listening.heard
        except Seen:
            pass
        finally:
            _watch.reset(token)
            model.set_attn_implementation(before)


def depth_of(model: Any) -> int:
    """How many attention layers a tower or language model has."""
    config = model.config
    return int(getattr(config, "depth", None) or config.num_hidden_layers)


def logits_of(call: Heard, queries: slice | Tensor = slice(None)) -> Iterator[Tensor]:
    """Scores before the softmax, one head after the other, float32 ``[B, q, k]``."""
    heads, groups = call.query.shape[1], call.query.shape[1] // call.key.shape[1]
    for head in range(heads):
        query = call.query[:, head, queries].float()
        scores = query @ call.key[:, head // groups].float().transpose(1, 2) * call.scale
        if call.mask is not None:
            mask = call.mask[:, min(head, call.mask.shape[1] - 1), queries, : scores.shape[-1]]
            scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
        yield scores


def attention_of(call: Heard, queries: slice | Tensor = slice(None)) -> Tensor:
    """Attention weights, the mean of the heads, float32 ``[B, q, k]``."""
    total, heads = None, call.query.shape[1]
    for scores in logits_of(call, queries):
        weights = scores.softmax(-1)
        total = weights if total is None else total.add_(weights)
    if total is None:
        raise ValueError("an attention without heads")
    return total / heads
