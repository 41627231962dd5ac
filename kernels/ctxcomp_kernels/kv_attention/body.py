"""The quantized part of a KV cache, as the decode attention reads it."""
# ruff: noqa: N806

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp_kernels.kv_quant import BITS, dequantize_keys, dequantize_values


@dataclass(frozen=True, eq=False)
class KVBody:
    """Quantized keys and values of n tokens, as ``kv_quant`` makes them; value = code * scale + minimum.

    key_codes: uint8 [B, H, n, d*key_bits/8].
    key_scale, key_minimum: per channel [B, H, n/group, d], or per token [B, H, n, d/group].
    value_codes: uint8 [B, H, n, d*value_bits/8].
    value_scale, value_minimum: per token [B, H, n, d/group].
    key_bits, value_bits: 2, 4 or 8, each its own.
    value_channel: [B, H, d], multiplied into the dequantized values (ZipCache's channel-separable quantization).
    valid: bool [B, H or 1, n], which slots count; None counts all.
    """

    key_codes: Tensor
    key_scale: Tensor
    key_minimum: Tensor
    value_codes: Tensor
    value_scale: Tensor
    value_minimum: Tensor
    key_bits: int
    value_bits: int
    value_channel: Tensor | None = None
    valid: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Slots it holds."""
        return self.key_codes.shape[2]

    @property
    def keys_per_token(self) -> bool:
        """Whether a key's scale belongs to its token, not to a channel of a group of tokens."""
        return self.key_scale.shape[3] != self.value_codes.shape[3] * 8 // self.value_bits

    def dequantize(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, n, d], dense."""
        decode_keys = dequantize_values if self.keys_per_token else dequantize_keys
        keys = decode_keys(self.key_codes, self.key_scale, self.key_minimum, self.key_bits)
        values = dequantize_values(self.value_codes, self.value_scale, self.value_minimum, self.value_bits)
        if self.value_channel is not None:
            values *= self.value_channel.float().unsqueeze(2)
        return keys.to(dtype), values.to(dtype)

    def check(self, heads: int, d: int) -> None:
        """Refuse tensors that do not belong together.

        Raises
        ------
        InputError: a width, a shape or a mask that does not fit ``heads`` KV heads of ``d`` channels.
        """
        B, n = self.key_codes.shape[0], self.tokens
        if self.key_bits not in BITS or self.value_bits not in BITS:
            raise InputError(f"bits must be one of {BITS}, got keys {self.key_bits} and values {self.value_bits}")
        wanted = {
            "key_codes": (B, heads, n, d * self.key_bits // 8),
            "value_codes": (B, heads, n, d * self.value_bits // 8),
            "key_minimum": tuple(self.key_scale.shape),
            "value_scale": (B, heads, n, self.value_scale.shape[-1]),
            "value_minimum": tuple(self.value_scale.shape),
        }
        if self.value_channel is not None:
            wanted["value_channel"] = (B, heads, d)
        for name, shape in wanted.items():
            if tuple(getattr(self, name).shape) != shape:
                raise InputError(f"{name} must have shape {shape}, got {tuple(getattr(self, name).shape)}")
        rows = self.key_scale.shape[2]
        if n and (rows == 0 or n % rows):
            raise InputError(f"key_scale has {rows} groups, which do not divide {n} tokens")
        check_valid("valid", self.valid, B, heads, n)


def check_valid(name: str, valid: Tensor | None, batch: int, heads: int, n: int) -> None:
    """Refuse a mask that is not bool [B, H or 1, n].

    Raises
    ------
    InputError: the mask has another shape or dtype.
    """
    if valid is None:
        return
    if valid.dtype != torch.bool or tuple(valid.shape) not in ((batch, heads, n), (batch, 1, n)):
        raise InputError(
            f"{name} must be bool [{batch}, {heads} or 1, {n}], got {valid.dtype} of shape {tuple(valid.shape)}"
        )
