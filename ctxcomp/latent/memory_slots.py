"""Memory slots: a small language model reads a passage into a few vectors for a larger one, or for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from ctxcomp.errors import InputError, ModelError
from ctxcomp.latent.base import LatentCompressor
from ctxcomp.latent.binding import check_generator
from ctxcomp.latent.networks import SlotsNetwork
from ctxcomp.latent.shards import shards
from ctxcomp.latent.store import Vectors
from ctxcomp.latent.weights import digest, load_slots, stamp
from ctxcomp.progress import tracked
from ctxcomp.types import Passage


@dataclass(frozen=True, kw_only=True)
class MemorySlots(LatentCompressor):
    """``k`` vectors for each passage, the states of a small language model at ``k`` slots behind the text.

    Parameters
    ----------
    weights: the folder of the small model, its slots and the projection.
    shard_tokens: the small model's tokens that one set of slots stands for, at most, >= 1.
    batch: texts read at once, >= 1.

    Source: ICAE (Ge et al. 2024) and C3; deviations in ``networks.SlotsNetwork``.
    """

    shard_tokens: int = 256
    batch: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("shard_tokens", self.shard_tokens), ("batch", self.batch)):
            if value < 1:
                raise InputError(f"{name} must be 1 or more, got {value}")
        network, _, facts = self._loaded
        hidden = self.generator.model.get_input_embeddings().weight.shape[1]
        if network.project.out_features != hidden:
            raise ModelError(
                f"{self.weights} gives {network.project.out_features} numbers, the generator's embeddings have {hidden}"
            )
        check_generator(facts.get("generator", ""), self.generator)

    def made_by(self) -> dict[str, str]:
        """Weights and shards."""
        return {"weights": digest(self._loaded[0]), "shard_tokens": str(self.shard_tokens)}

    @property
    def _loaded(self) -> tuple[SlotsNetwork, Any, dict[str, str]]:
        return _loaded(str(self.weights), stamp(self.weights))

    def encode(self, passages: Sequence[Passage]) -> list[Vectors]:
        """``k`` vectors for each shard of each passage."""
        network, tokenizer, _ = self._loaded
        pieces = [shards(tokenizer, passage.text, self.shard_tokens) for passage in passages]
        flat = [text for texts in pieces for text in texts]
        order = sorted(range(len(flat)), key=lambda i: len(flat[i]))
        found: dict[int, Vectors] = {}
        for start in tracked(range(0, len(order), self.batch)):
            rows = order[start : start + self.batch]
            found |= dict(zip(rows, _read(network, tokenizer, [flat[i] for i in rows]), strict=True))
        empty = torch.zeros(0, network.project.out_features).numpy()
        rows_of, at = [], 0
        for texts in pieces:
            own = [found[i] for i in range(at, at + len(texts))]
            rows_of.append(torch.cat([torch.from_numpy(v) for v in [empty, *own]]).numpy())
            at += len(texts)
        return rows_of


def _read(network: SlotsNetwork, tokenizer: Any, texts: list[str]) -> list[Vectors]:
    ids = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
    longest = max(map(len, ids))
    padded = torch.tensor([[0] * (longest - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
    with torch.inference_mode():
        return [row.float().numpy() for row in network(padded, mask)]


@lru_cache(maxsize=2)
def _loaded(path: str, _: str) -> tuple[SlotsNetwork, Any, dict[str, str]]:
    return load_slots(path)
