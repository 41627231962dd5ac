"""Keys and values per token: the plainest quantization, near lossless at 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.fields import check_fields
from ctxcomp.generate.cache.codec import Block, Codec

if TYPE_CHECKING:
    from ctxcomp_kernels.kv_attention import KVBody

NAMES = ("codes", "scale", "minimum")


@dataclass(frozen=True, kw_only=True)
class PerToken(Codec):
    """One scale and one minimum per token, head and group of channels, float16.

    Parameters
    ----------
    bits: 8, 4 or 2.
    group: channels that share a scale; None is the whole head.
    block: tokens encoded at once.
    residual: most recent tokens that stay as they are.
    """

    fused: ClassVar[bool] = True

    bits: Literal[8, 4, 2]
    group: int | None = None
    block: int = 16
    residual: int = 16

    def __post_init__(self) -> None:
        check_fields(self)
        check_sizes(self)

    def encode(self, keys: Tensor, values: Tensor, saliency: Tensor | None = None) -> Block:
        """Codes ``[B, H, n, d * bits / 8]``, scales and minima ``[B, H, n, d / group]``, for keys and values."""
        from ctxcomp_kernels.kv_quant import quantize_values

        parts = {"key": keys, "value": values}
        tensors = {
            f"{part}_{name}": t
            for part, x in parts.items()
            for name, t in zip(NAMES, quantize_values(x, self.bits, self.group, dtype=torch.float16), strict=True)
        }
        return Block(tensors, keys.shape[2], keys.dtype)

    def decode(self, block: Block) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, H, n, d]``."""
        from ctxcomp_kernels.kv_quant import dequantize_values

        keys = dequantize_values(*triple(block, "key"), self.bits, block.dtype)
        return keys, dequantize_values(*triple(block, "value"), self.bits, block.dtype)

    def bodies(self, block: Block, valid: Tensor | None) -> list[KVBody]:
        """One body, the block's own tensors."""
        from ctxcomp_kernels.kv_attention import KVBody

        return [KVBody(*triple(block, "key"), *triple(block, "value"), self.bits, self.bits, valid=valid)]


def triple(block: Block, prefix: str) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scale and minimum of a block's "key" or "value"."""
    codes, scale, minimum = (block.tensors[f"{prefix}_{name}"] for name in NAMES)
    return codes, scale, minimum


def check_sizes(codec: Codec) -> None:
    """Refuse a block below 1 or a residual below 0."""
    if codec.block < 1 or codec.residual < 0:
        raise InputError(
            f"{type(codec).__name__}: block must be 1 or more and residual 0 or more, "
            f"got block={codec.block}, residual={codec.residual}"
        )
