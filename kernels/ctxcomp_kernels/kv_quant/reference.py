"""The specification of KV quantization: plain torch, any device, any floating dtype.

Source: KIVI (Liu et al., 2024), keys per channel in groups of tokens, values per token. Deviations: scale and minimum
keep the dtype of the input, in which the minimum is exact, and codes are computed against the scale as it is stored.
"""
# ruff: noqa: N806

from __future__ import annotations

import torch
from torch import Tensor


def quantize_keys(keys: Tensor, bits: int, group: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize each channel in groups of ``group`` tokens: [B, H, n, d] -> codes, scale, minimum [B, H, n/group, d]."""
    B, H, n, d = keys.shape
    grouped = keys.reshape(B, H, n // group, group, d)
    codes, scale, minimum = _quantize(grouped, 3, bits, dtype)
    return pack(codes.reshape(B, H, n, d), bits), scale.squeeze(3), minimum.squeeze(3)


def quantize_values(values: Tensor, bits: int, group: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize each token in groups of ``group`` channels: [B, H, n, d] -> codes, scale, minimum [B, H, n, d/group]."""
    B, H, n, d = values.shape
    grouped = values.reshape(B, H, n, d // group, group)
    codes, scale, minimum = _quantize(grouped, 4, bits, dtype)
    return pack(codes.reshape(B, H, n, d), bits), scale.squeeze(4), minimum.squeeze(4)


def dequantize_keys(codes: Tensor, scale: Tensor, minimum: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Undo ``quantize_keys``: value = code * scale + minimum, computed in float32; [B, H, n, d]."""
    plain = unpack(codes, bits)
    B, H, n, d = plain.shape
    grouped = plain.reshape(B, H, scale.shape[2], n // max(scale.shape[2], 1), d).float()
    return (grouped * scale.float().unsqueeze(3) + minimum.float().unsqueeze(3)).reshape(B, H, n, d).to(dtype)


def dequantize_values(codes: Tensor, scale: Tensor, minimum: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Undo ``quantize_values``; [B, H, n, d]."""
    plain = unpack(codes, bits)
    B, H, n, d = plain.shape
    grouped = plain.reshape(B, H, n, scale.shape[3], d // scale.shape[3]).float()
    return (grouped * scale.float().unsqueeze(4) + minimum.float().unsqueeze(4)).reshape(B, H, n, d).to(dtype)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes uint8 [..., d] -> uint8 [..., d*bits/8]: neighbours share a byte, the lower index in the lower bits."""
    per = 8 // bits
    planes = codes.reshape(*codes.shape[:-1], codes.shape[-1] // per, per)
    packed: Tensor = planes[..., 0].clone()
    for i in range(1, per):
        packed |= planes[..., i] << (bits * i)
    return packed


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Undo ``pack``: uint8 [..., d*bits/8] -> uint8 [..., d]."""
    if bits == 8:
        return packed
    mask = (1 << bits) - 1
    return torch.stack([(packed >> shift) & mask for shift in range(0, 8, bits)], dim=-1).flatten(-2)


def _quantize(x: Tensor, dim: int, bits: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Asymmetric quantization over ``dim``; a group of equal values gets scale 0 and codes 0."""
    levels = (1 << bits) - 1
    x = x.float()
    low, high = torch.aminmax(x, dim=dim, keepdim=True)
    minimum = low.to(dtype)
    scale = ((high - minimum.float()) / levels).clamp_min(0).to(dtype)
    step = torch.where(scale == 0, 1, scale.float())
    codes = ((x - minimum.float()) / step + 0.5).floor_().clamp_(0, levels)
    return codes.to(torch.uint8), scale, minimum
