"""A KV cache that is small: for ``model.generate(..., past_key_values=CompressedCache(model.config, "kivi4"))``."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from ctxcomp.errors import CacheError
from ctxcomp.generate.cache.layer import LONGEST_DRAFT, CompressedLayer
from ctxcomp.generate.cache.policy import KVPolicy, as_policy
from ctxcomp.generate.cache.static import Static, StaticLayer


class CompressedCache(Cache):
    """Keys and values of every layer under one policy.

    Outward it has the length of the tokens seen; inside it holds fewer slots, or fewer bits. Layers with a sliding
    window, and those that hold no keys, stay transformers' own.

    Parameters
    ----------
    config: the model's configuration.
    policy: ``KVPolicy`` or its text: "int8", "kivi4", "snapkv(keep=0.25)+kivi4", "static8(max_tokens=4096)", ...
        A policy that evicts or weighs tokens needs ``install(model)``, which sets the attention "ctxcomp".
    """

    def __init__(self, config: Any, policy: str | KVPolicy) -> None:
        self.policy = as_policy(policy)
        decoder = config.get_text_config(decoder=True)
        super().__init__(layers=[self._layer(theirs, decoder) for theirs in DynamicCache(config=decoder).layers])

    def _layer(self, theirs: Any, config: Any) -> Any:
        if type(theirs) is not DynamicLayer:  # its subclasses slide, or hold other states than keys
            return theirs
        if isinstance(self.policy.codec, Static):
            return StaticLayer(self.policy.codec, config)
        return CompressedLayer(self.policy.codec, self.policy.evictor, config)

    def nbytes(self) -> int:
        """Bytes of all tensors held: codes, scales, tails, positions, buffered queries; each storage once."""
        storages = {}
        for layer in self.layers:
            for tensor in _tensors(layer).values():
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        return sum(storages.values())

    def physical_length(self, layer: int = 0) -> int:
        """Slots that a layer holds per head."""
        held: Any = self.layers[layer]
        return int(held.physical_length() if hasattr(held, "physical_length") else held.get_seq_length())

    def room(self) -> int:
        """Tokens that one forward may bring and still see exactly what it would see if they came one by one.

        A draft that is no longer keeps speculative decoding equal to plain decoding with every policy.
        """
        return min((layer.room() for layer in self.layers if isinstance(layer, CompressedLayer)), default=LONGEST_DRAFT)

    def state_dict(self) -> list[tuple[dict[str, Tensor], dict[str, Any]]]:
        """Per layer its tensors by name and the rest as plain JSON values, for storing; tensors are not copied.

        Raises
        ------
        CacheError: a layer is not a compressed one.
        """
        layers = self._compressed()
        for layer in layers:
            layer.settle()
        return [(layer.tensors(), layer.meta()) for layer in layers]

    @classmethod
    def from_state(
        cls, config: Any, policy: str | KVPolicy, state: list[tuple[dict[str, Tensor], dict[str, Any]]]
    ) -> CompressedCache:
        """The cache that ``state_dict`` described, under the same policy."""
        cache = cls(config, policy)
        layers = cache._compressed()
        if len(layers) != len(state):
            raise CacheError(f"the state has {len(state)} layers, the model has {len(layers)}")
        for layer, (tensors, meta) in zip(layers, state, strict=True):
            layer.load(tensors, meta)
        return cache

    def _compressed(self) -> list[CompressedLayer]:
        layers = [layer for layer in self.layers if isinstance(layer, CompressedLayer)]
        if len(layers) != len(self.layers):
            raise CacheError("a cache with static, sliding-window or stateful layers cannot be stored")
        return layers


def _tensors(layer: Any) -> dict[str, Tensor]:
    if hasattr(layer, "tensors"):
        found: dict[str, Tensor] = layer.tensors()
        return found
    return {name: t for name, t in vars(layer).items() if isinstance(t, Tensor)}
