"""Salient tokens at more bits, saliency from the queries at the end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.fields import check_fields
from ctxcomp.generate.cache.codec import Block, Codec
from ctxcomp.generate.cache.evictor import LayerView
from ctxcomp.generate.cache.narrow import narrowed
from ctxcomp.generate.cache.per_token import NAMES, check_sizes, triple
from ctxcomp.generate.cache.snapkv import SnapKV

if TYPE_CHECKING:
    from ctxcomp_kernels.kv_attention import KVBody


@dataclass(frozen=True, kw_only=True)
class ZipCache(Codec):
    """Salient tokens at ``bits``, the rest at ``low``.

    Keys are quantized per channel, values channel-separable tokenwise: a channel is divided by
    ``c = sqrt(max |v|)``, then each token has one scale and one minimum. A bit per token tells which are salient.

    Parameters
    ----------
    bits, low: widths of salient and other tokens; 8, 4 or 2.
    salient: salient tokens / tokens, in [0, 1].
    window, kernel: queries at the end that are asked, and slots that share their attention, as in ``SnapKV``.
    group: tokens of a key channel that share a scale, where they divide into such groups; else all share one.
    block: tokens encoded at once in decoding, a multiple of 8; the prompt is encoded as one.
    residual: most recent tokens that stay as they are.

    Source: ZipCache (He et al., 2024). Deviations: salient tokens are chosen per head; the last queries are asked, not
    random ones too, and neighbours share their attention: of 30 codes in long prompts 27 are found so, 23 by the
    paper's probes, 28 with the whole cache (the small trained Llama, its training text); keys have a scale per
    ``group`` tokens; a smaller share is salient, for the bytes; at 2 bits a group's range is `narrowed`.
    """

    joins: ClassVar[bool] = False
    observes: ClassVar[bool] = True
    fused: ClassVar[bool] = True

    bits: Literal[8, 4, 2] = 4
    low: Literal[8, 4, 2] = 2
    salient: float = 0.2
    window: int = 32
    kernel: int = 9
    group: int = 128  # 64 costs 1.3 points of bytes and saves .07 % of perplexity
    block: int = 64
    residual: int = 16

    def __post_init__(self) -> None:
        check_fields(self)
        check_sizes(self)
        self._scorer()
        if not 0 <= self.salient <= 1:
            raise InputError(f"ZipCache: salient must be in [0, 1], got {self.salient}")
        if self.block % 8 or self.group < 1:
            raise InputError(
                f"ZipCache: block must be a multiple of 8, group 1 or more, got {self.block=}, {self.group=}"
            )

    def _scorer(self) -> SnapKV:
        return SnapKV(keep=1.0, window=self.window, kernel=self.kernel)

    def saliency(self, view: LayerView) -> Tensor:
        """Smoothed mean attention ``[B, H, n]`` from the last queries."""
        return self._scorer().score(view)

    def encode(self, keys: Tensor, values: Tensor, saliency: Tensor | None = None) -> Block:
        """Codes ``[B, H, m, d * bits / 8]`` and scales of the m salient tokens and of the others, and the bits.

        Without saliency the later are the more salient.
        """
        b, h, n, d = keys.shape
        if saliency is None:
            saliency = torch.arange(n, device=keys.device).expand(b, h, n)
        chosen = saliency.float().sort(dim=-1, descending=True, stable=True).indices[..., : self._salient(n)]
        salient = torch.zeros(b, h, n, dtype=torch.uint8, device=keys.device).scatter_(2, chosen, 1)
        tensors = {"salient": _pack_bits(salient)}
        for name, bits, slots in self._tiers(salient):
            index = slots[..., None].expand(-1, -1, -1, d)
            if slots.shape[-1]:
                tensors |= self._write(name, keys.gather(2, index), values.gather(2, index), bits)
        return Block(tensors, n, keys.dtype)

    def decode(self, block: Block) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, H, n, d]``, tokens in their order."""
        bodies, slots = self._bodies(block)
        parts = [body.dequantize(block.dtype) for body in bodies]
        keys, values = torch.cat([k for k, _ in parts], 2), torch.cat([v for _, v in parts], 2)
        index = torch.cat(slots, 2)[..., None].expand_as(keys)
        return torch.empty_like(keys).scatter_(2, index, keys), torch.empty_like(values).scatter_(2, index, values)

    def bodies(self, block: Block, valid: Tensor | None) -> list[KVBody]:
        """One body per width: attention does not ask in which order its tokens come."""
        bodies, slots = self._bodies(block)
        if valid is None:
            return bodies
        picked = [valid.expand(*at.shape[:2], -1).gather(2, at) for at in slots]
        return [replace(body, valid=v) for body, v in zip(bodies, picked, strict=True)]

    def _bodies(self, block: Block) -> tuple[list[KVBody], list[Tensor]]:
        """The quantized tokens of each width, and their slots ``[B, H, m]``."""
        from ctxcomp_kernels.kv_attention import KVBody

        held, bodies, found = block.tensors, [], []
        for name, bits, slots in self._tiers(_unpack_bits(held["salient"])):
            if slots.shape[-1]:
                key, value = triple(block, f"{name}_key"), triple(block, f"{name}_value")
                bodies.append(KVBody(*key, *value, bits, bits, value_channel=held[f"{name}_channel"]))
                found.append(slots)
        return bodies, found

    def _write(self, name: str, keys: Tensor, values: Tensor, bits: int) -> dict[str, Tensor]:
        from ctxcomp_kernels.kv_quant import quantize_keys, quantize_values

        n = keys.shape[2]
        group = n if n % self.group else self.group
        key = quantize_keys(narrowed(keys, 2, group, bits), bits, group, dtype=torch.float16)
        channel = values.abs().amax(2).float().clamp(min=1e-6).sqrt().to(torch.float16)
        balanced = narrowed(values / channel[:, :, None], 3, values.shape[3], bits)
        value = quantize_values(balanced, bits, dtype=torch.float16)
        names = [f"{name}_{x}_{part}" for x in ("key", "value") for part in NAMES]
        return dict(zip(names, (*key, *value), strict=True)) | {f"{name}_channel": channel}

    def _salient(self, n: int) -> int:
        """How many of n tokens are salient: whole groups where there is at least one."""
        step = self.group if self.salient * n >= self.group else 1
        return min(n, round(self.salient * n / step) * step)

    def _tiers(self, salient: Tensor) -> list[tuple[str, int, Tensor]]:
        """Name, bits and slots ``[B, H, m]`` ascending of the salient tokens and of the others."""
        order = salient.sort(dim=-1, stable=True, descending=True).indices
        count = self._salient(salient.shape[-1])
        return [("high", self.bits, order[..., :count]), ("low", self.low, order[..., count:])]


def _pack_bits(flags: Tensor) -> Tensor:
    """Flags 0 and 1 ``[B, H, n]`` as uint8 ``[B, H, n / 8]``."""
    shifts = torch.arange(8, device=flags.device)
    return (flags.view(*flags.shape[:-1], -1, 8).long() << shifts).sum(-1).to(torch.uint8)


def _unpack_bits(packed: Tensor) -> Tensor:
    shifts = torch.arange(8, device=packed.device, dtype=torch.uint8)
    return (packed[..., None] >> shifts & 1).flatten(-2)
