"""Keys per channel, values per token: what the two look like decides along what they are quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.fields import check_fields
from ctxcomp.generate.cache.codec import Block, Codec
from ctxcomp.generate.cache.narrow import narrowed
from ctxcomp.generate.cache.per_token import NAMES, check_sizes, triple

if TYPE_CHECKING:
    from ctxcomp_kernels.kv_attention import KVBody


@dataclass(frozen=True, kw_only=True)
class Kivi(Codec):
    """Asymmetric quantization, scales and minima in float16.

    Parameters
    ----------
    bits: 8, 4 or 2; for models with grouped query heads the authors advise 4.
    block: tokens of a key channel that share a scale, encoded at once.
    group: channels of a value that share a scale; None is the whole head.
    residual: most recent tokens that stay as they are.

    Source: KIVI (Liu et al., 2024). Deviations: groups of 64 tokens instead of 32, and fewer recent tokens than 128,
    for the bytes; scales are float16 whatever the model's dtype; at 2 bits a group's range is `narrowed`.
    """

    fused: ClassVar[bool] = True

    bits: Literal[8, 4, 2]
    block: int = 64
    group: int | None = None
    residual: int = 16

    def __post_init__(self) -> None:
        check_fields(self)
        check_sizes(self)
        if self.block % 16:
            raise InputError(f"Kivi: block must be a multiple of 16, got {self.block}")

    def encode(self, keys: Tensor, values: Tensor, saliency: Tensor | None = None) -> Block:
        """Codes ``[B, H, n, d * bits / 8]``; scales ``[B, H, n / block, d]``, of values ``[B, H, n, d / group]``."""
        from ctxcomp_kernels.kv_quant import quantize_keys, quantize_values

        keys = narrowed(keys, 2, self.block, self.bits)
        values = narrowed(values, 3, self.group or values.shape[3], self.bits)
        key = quantize_keys(keys, self.bits, self.block, dtype=torch.float16)
        value = quantize_values(values, self.bits, self.group, dtype=torch.float16)
        tensors = {f"key_{name}": t for name, t in zip(NAMES, key, strict=True)}
        tensors |= {f"value_{name}": t for name, t in zip(NAMES, value, strict=True)}
        return Block(tensors, keys.shape[2], keys.dtype)

    def decode(self, block: Block) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, H, n, d]``."""
        from ctxcomp_kernels.kv_quant import dequantize_keys, dequantize_values

        keys = dequantize_keys(*triple(block, "key"), self.bits, block.dtype)
        return keys, dequantize_values(*triple(block, "value"), self.bits, block.dtype)

    def bodies(self, block: Block, valid: Tensor | None) -> list[KVBody]:
        """One body, the block's own tensors."""
        from ctxcomp_kernels.kv_attention import KVBody

        return [KVBody(*triple(block, "key"), *triple(block, "value"), self.bits, self.bits, valid=valid)]
