"""A document's keys and values, made by the model behind the beginning of the prompt, without their positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ctxcomp.errors import ModelError
from ctxcomp.generate.cache import CompressedCache, Evictor, KVPolicy, install
from ctxcomp.generate.cache.layer import CompressedLayer
from ctxcomp.generate.cache.rotary import Rotary
from ctxcomp.generate.documents.prefix import BehindPrefix

Layer = tuple[Tensor, Tensor]
"""Keys and values ``[1, H, n, d]``."""


class Reader:
    """Reads token ids with a model.

    Parameters
    ----------
    model: a causal language model; its attention becomes "ctxcomp".
    evictor: which of a document's tokens are left out; None keeps all.

    Raises
    ------
    ModelError: the model's positions are not rotary, or a layer does not see the whole context.
    """

    def __init__(self, model: Any, evictor: Evictor | None) -> None:
        self.model, self.evictor = model, evictor
        install(model)
        modules = [m for m in model.modules() if hasattr(m, "layer_idx") and type(m).__name__.endswith("Attention")]
        rotaries = [Rotary.of(module) for module in sorted(modules, key=lambda m: m.layer_idx)]
        layers = CompressedCache(model.config, "none").layers
        if len(rotaries) != len(layers) or not all(isinstance(layer, CompressedLayer) for layer in layers):
            raise ModelError(
                f"{type(model).__name__} has layers that do not see the whole context: no documents' cache"
            )
        self.rotaries = [rotary for rotary in rotaries if rotary is not None]
        if len(self.rotaries) != len(rotaries):
            raise ModelError(f"{type(model).__name__} has no rotary positions: its caches cannot be moved")

    @torch.inference_mode()
    def read(self, before: Sequence[int], ids: Sequence[int], *, evict: bool = True) -> list[Layer]:
        """Keys, turned back to no position, and values of ``ids``, which stand behind ``before``."""
        evictor = BehindPrefix(inner=self.evictor, sinks=len(before)) if self.evictor and evict else None
        cache = CompressedCache(self.model.config, KVPolicy(evictor=evictor))
        whole = torch.tensor([[*before, *ids]], device=self.model.device)
        self.model(whole, past_key_values=cache, use_cache=True, logits_to_keep=1)
        layers = []
        held: list[Any] = cache.layers  # compressed ones, as checked above
        for rotary, layer in zip(self.rotaries, held, strict=True):
            keys, values = layer.dense()
            positions = layer.slot_positions()[..., len(before) :]
            keys = rotary.turn(keys[:, :, len(before) :], -positions).to(keys.dtype)
            layers.append((keys, values[:, :, len(before) :]))
        return layers

    def turn(self, layers: Sequence[Layer], start: int) -> list[Layer]:
        """Layers with their tokens at ``start``, ``start + 1``, ..."""
        count = layers[0][0].shape[2]
        at = torch.arange(start, start + count, device=layers[0][0].device)
        return [
            (r.turn(keys, at).to(keys.dtype), values) for r, (keys, values) in zip(self.rotaries, layers, strict=True)
        ]
