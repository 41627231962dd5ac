"""Demoted before they are dropped: one block holds tokens in full, at 4 and at 2 bits, by importance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.generate.cache.codec import Block, Codec
from ctxcomp.generate.cache.evictor import Evictor, LayerView
from ctxcomp.generate.cache.narrow import narrowed
from ctxcomp_kernels.kv_quant import dequantize_keys, dequantize_values, quantize_keys, quantize_values
from ctxcomp_kernels.kv_quant.reference import pack, unpack

if TYPE_CHECKING:
    Parts = tuple[Tensor, Tensor, Tensor]

WIDTHS = (4, 2)
"""Bits of the levels below the first, which is the model's own dtype."""


@dataclass(frozen=True, kw_only=True)
class Demote(Evictor, Codec):
    """A token's precision falls with its rank among the tokens of a head: in full, 4 bits, 2 bits, gone.

    Parameters
    ----------
    by: the evictor whose scores rank tokens, by name.
    high: share of the tokens that stay in full, in [0, 1].
    low: share of the tokens at 2 bits, in [0, 1]; those between are at 4.
    group: tokens, and channels of a value, that share a scale.
    block: tokens encoded at once in decoding, a multiple of 4; a prompt is one block.
    residual: most recent tokens that stay in full besides.
    keep, tokens: as of every evictor; by default nothing is dropped.

    Every ``interval`` tokens generated, if more than the budget are held, all are ranked anew: tokens fall, or leave.
    One that rises again keeps the precision it has lost.

    Source: MiKV (Yang et al., 2024), which keeps at few bits what eviction would drop; codes as in KIVI (Liu et al.).
    """

    joins: ClassVar[bool] = False
    observes: ClassVar[bool] = True
    running: ClassVar[bool] = True

    by: str = "snapkv"
    high: float = 0.1
    low: float = 0.4
    group: int = 64
    block: int = 32
    residual: int = 16

    def __post_init__(self) -> None:
        if self.keep is None and self.tokens is None:
            object.__setattr__(self, "keep", 1.0)
        super().__post_init__()
        if min(self.high, self.low) < 0 or self.high + self.low > 1 + 1e-9:
            raise InputError(f"Demote: high and low are shares, together at most 1, got {self.high=}, {self.low=}")
        if self.group < 1 or self.block < 4 or self.block % 4 or self.residual < 0:
            raise InputError(
                "Demote: group must be 1 or more, block a multiple of 4, residual 0 or more, "
                f"got {self.group=}, {self.block=}, {self.residual=}"
            )
        self._scorer()

    def _scorer(self) -> Evictor:
        from ctxcomp.generate.cache.policy import KVPolicy

        best = self.high or 1.0  # H2O fills half of what it keeps with recent tokens: half of the first level
        stage = f"{self.by}(keep={best},sinks={self.sinks})"
        try:
            found = None if self.by == "demote" else KVPolicy.parse(stage).evictor
        except InputError:  # no such stage, or one that takes no ``keep``
            found = None
        if found is None:
            raise InputError(f"Demote: by must name an evictor, such as 'snapkv' or 'h2o', got {self.by!r}")
        return found

    def observe(self, view: LayerView) -> None:
        """As the evictor asked for scores."""
        self._scorer().observe(view)

    def score(self, view: LayerView) -> Tensor:
        """Those of the evictor asked, ``[B, H, n]``."""
        return self._scorer().score(view)

    def saliency(self, view: LayerView) -> Tensor:
        """The score ``[B, H, n]``; sinks are above, padding below everything."""
        score = self.score(view)
        valid = view.valid.expand_as(score)
        sinks = valid.cumsum(-1) <= self.sinks
        return score.float().masked_fill(sinks, torch.inf).masked_fill(~valid, -torch.inf)

    def encode(self, keys: Tensor, values: Tensor, saliency: Tensor | None = None) -> Block:
        """Each level's tokens together, in their order; 2 bits a slot tell its level."""
        b, h, n, d = keys.shape
        if saliency is None:  # no query was seen yet: the later, the more important
            saliency = torch.arange(n, device=keys.device, dtype=torch.float32).expand(b, h, n)
        counts = self._counts(n)
        edges = torch.tensor([counts[0], counts[0] + counts[1]], device=keys.device)
        rank = saliency.argsort(dim=-1, descending=True, stable=True).argsort(-1)
        levels = (rank[..., None] >= edges).sum(-1).to(torch.uint8)
        slots = _slots(levels, d)
        key_parts = torch.split(keys.gather(2, slots), counts, dim=2)
        value_parts = torch.split(values.gather(2, slots), counts, dim=2)
        tensors = {"levels": pack(levels, 2), "keys": key_parts[0].clone(), "values": value_parts[0].clone()}
        for bits, key, value in zip(WIDTHS, key_parts[1:], value_parts[1:], strict=True):
            if not key.shape[2]:
                continue
            tensors |= _named(f"keys{bits}", self._encode_keys(key, bits))
            channels = self._channels(d)
            value = narrowed(value, 3, channels, bits)
            tensors |= _named(f"values{bits}", quantize_values(value, bits, channels, dtype=torch.float16))
        return Block(tensors, n, keys.dtype)

    def decode(self, block: Block) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, H, n, d]``, every token in its place."""
        held, dtype = block.tensors, block.dtype
        keys, values = [held["keys"]], [held["values"]]
        for bits in WIDTHS:
            if f"keys{bits}.codes" not in held:
                continue
            keys.append(self._decode_keys(_parts(held, f"keys{bits}"), bits, dtype))
            values.append(dequantize_values(*_parts(held, f"values{bits}"), bits, dtype))
        key, value = torch.cat(keys, dim=2), torch.cat(values, dim=2)
        slots = _slots(unpack(held["levels"], 2), key.shape[-1])
        return torch.empty_like(key).scatter_(2, slots, key), torch.empty_like(value).scatter_(2, slots, value)

    def _counts(self, n: int) -> list[int]:
        """Tokens of each level among n."""
        high = round(self.high * n)
        low = min(n - high, round(self.low * n))
        return [high, n - high - low, low]

    def _channels(self, size: int) -> int:
        """Channels of a value that share a scale."""
        return self.group if size % self.group == 0 else size  # a whole head that is no multiple

    def _encode_keys(self, keys: Tensor, bits: int) -> Parts:
        """Per channel; the last group may be short, and is filled with its last token while scales are found."""
        n = keys.shape[2]
        filled = torch.cat([keys, keys[:, :, -1:].expand(-1, -1, -n % self.group, -1)], dim=2)
        filled = narrowed(filled, 2, self.group, bits)
        codes, scale, minimum = quantize_keys(filled, bits, self.group, dtype=torch.float16)
        return codes[:, :, :n].clone(), scale, minimum

    def _decode_keys(self, parts: Parts, bits: int, dtype: torch.dtype) -> Tensor:
        codes, scale, minimum = parts
        n = codes.shape[2]
        filled = torch.nn.functional.pad(codes, (0, 0, 0, scale.shape[2] * self.group - n))
        return dequantize_keys(filled, scale, minimum, bits, dtype)[:, :, :n]


def _slots(levels: Tensor, size: int) -> Tensor:
    """The slots level by level, each in order: an index ``[B, H, n, size]``."""
    return levels.argsort(stable=True, dim=-1)[..., None].expand(-1, -1, -1, size)


def _named(prefix: str, parts: Parts) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": part for name, part in zip(("codes", "scale", "minimum"), parts, strict=True)}


def _parts(tensors: dict[str, Tensor], prefix: str) -> Parts:
    return tensors[f"{prefix}.codes"], tensors[f"{prefix}.scale"], tensors[f"{prefix}.minimum"]
