"""Keys and values as they are: the codec of policies that only evict, and the yardstick of all others."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ctxcomp.generate.cache.codec import Block, Codec
from ctxcomp.generate.cache.evictor import GONE


@dataclass(frozen=True)
class Dense(Codec):
    """Stores the model's own numbers; the layer keeps them all in its tail and never calls it."""

    block = 1
    residual = GONE  # never anything to encode

    def encode(self, keys: Tensor, values: Tensor, saliency: Tensor | None = None) -> Block:
        """A block that holds the tensors themselves."""
        return Block({"keys": keys, "values": values}, keys.shape[2], keys.dtype)

    def decode(self, block: Block) -> tuple[Tensor, Tensor]:
        """The tensors."""
        return block.tensors["keys"], block.tensors["values"]
