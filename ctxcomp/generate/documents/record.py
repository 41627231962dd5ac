"""The keys and values of one document, as they are stored: turned back to no position, and encoded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ctxcomp.generate.cache import Block, Codec
from ctxcomp.generate.documents.reader import Layer


@dataclass(frozen=True)
class Record:
    """One document's cache.

    Parameters
    ----------
    tensors: what is stored, by name.
    blocks: of each layer what its encoded block needs besides, None where all is stored as it is.
    ids: the document's token ids; where tokens were evicted, those of as many first tokens as slots are left.
    """

    tensors: dict[str, Tensor]
    blocks: list[dict[str, Any] | None]
    ids: list[int]

    @classmethod
    def encode(cls, layers: list[Layer], ids: list[int], codec: Codec) -> Record:
        """Encode keys without positions and values; tokens that fill no block of the codec stay as they are."""
        tensors: dict[str, Tensor] = {}
        blocks: list[dict[str, Any] | None] = []
        for i, (keys, values) in enumerate(layers):
            whole = 0 if codec.residual >= keys.shape[2] else keys.shape[2] // codec.block * codec.block
            blocks.append(None)
            if whole:
                block = codec.encode(keys[:, :, :whole], values[:, :, :whole])
                tensors |= {f"{i}.body.{name}": t for name, t in block.tensors.items()}
                dtype = str(block.dtype).removeprefix("torch.")
                blocks[-1] = {"tokens": block.tokens, "dtype": dtype, "meta": block.meta}
            tensors |= {f"{i}.keys": keys[:, :, whole:], f"{i}.values": values[:, :, whole:]}
        return cls(tensors, blocks, ids[: layers[0][0].shape[2]])

    def decode(self, codec: Codec, device: torch.device) -> list[Layer]:
        """Keys without positions and values of every layer, on a device."""
        layers = []
        for i, meta in enumerate(self.blocks):
            keys, values = self.tensors[f"{i}.keys"].to(device), self.tensors[f"{i}.values"].to(device)
            if meta is not None:
                name = f"{i}.body."
                held = {k.removeprefix(name): t.to(device) for k, t in self.tensors.items() if k.startswith(name)}
                body = codec.decode(Block(held, meta["tokens"], getattr(torch, meta["dtype"]), meta["meta"]))
                keys, values = torch.cat([body[0], keys], 2), torch.cat([body[1], values], 2)
            layers.append((keys, values))
        return layers

    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    def facts(self) -> dict[str, str]:
        """What the tensors do not tell, as text."""
        return {"blocks": json.dumps(self.blocks), "ids": json.dumps(self.ids)}

    @classmethod
    def of_facts(cls, tensors: dict[str, Tensor], facts: dict[str, str]) -> Record:
        """The record that ``tensors`` and ``facts`` describe."""
        return cls(tensors, json.loads(facts["blocks"]), json.loads(facts["ids"]))
