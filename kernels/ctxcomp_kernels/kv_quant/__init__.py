"""Quantize keys and values to 2, 4 or 8 bits: keys per channel in groups of tokens, values per token.

Everywhere ``value = code * scale + minimum``. Codes are packed along d, the lower index in the lower bits of a byte.
d * bits must be a multiple of 8.
"""
# ruff: noqa: N806

from __future__ import annotations

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp_kernels.dispatch import choose
from ctxcomp_kernels.kv_quant import reference

BITS = (2, 4, 8)
Quantized = tuple[Tensor, Tensor, Tensor]


def quantize_keys(
    keys: Tensor, bits: int, group: int, *, dtype: torch.dtype | None = None, backend: str = ""
) -> Quantized:
    """Quantize keys per channel, in groups of ``group`` tokens.

    Parameters
    ----------
    keys: [B, H, n, d], floating, any strides; n a multiple of ``group``.
    bits: 2, 4 or 8.
    group: tokens that share a scale.
    dtype: of scale and minimum; None keeps that of ``keys``, in which the minimum is exact.

    Returns
    -------
    codes uint8 [B, H, n, d*bits/8], scale [B, H, n/group, d], minimum [B, H, n/group, d].

    Raises
    ------
    InputError: other bits, or sizes that do not divide.
    """
    check(keys, bits)
    _divides("group", group, "n", keys.shape[2])
    kind = dtype or keys.dtype
    if keys.numel() and choose("kv_quant", keys.device, backend=backend) == "triton":
        buffers = _buffers(keys, bits, (keys.shape[2] // group, keys.shape[3]), kind)
        append_keys(keys, *buffers, 0, bits, group, backend=backend)
        return buffers
    return reference.quantize_keys(keys, bits, group, kind)


def quantize_values(
    values: Tensor, bits: int, group: int | None = None, *, dtype: torch.dtype | None = None, backend: str = ""
) -> Quantized:
    """Quantize values per token, in groups of ``group`` channels (None: d, one scale a token).

    Returns
    -------
    codes uint8 [B, H, n, d*bits/8], scale [B, H, n, d/group], minimum [B, H, n, d/group]. The rest as in
    ``quantize_keys``.
    """
    check(values, bits)
    n, d = values.shape[2:]
    group = d if group is None else group
    _divides("group", group, "d", d)
    kind = dtype or values.dtype
    if values.numel() and choose("kv_quant", values.device, backend=backend) == "triton":
        buffers = _buffers(values, bits, (n, d // group), kind)
        append_values(values, *buffers, 0, bits, group, backend=backend)
        return buffers
    return reference.quantize_values(values, bits, group, kind)


def dequantize_keys(
    codes: Tensor, scale: Tensor, minimum: Tensor, bits: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The keys that ``quantize_keys`` stored, [B, H, n, d] in ``dtype``."""
    return reference.dequantize_keys(codes, scale, minimum, bits, dtype)


def dequantize_values(
    codes: Tensor, scale: Tensor, minimum: Tensor, bits: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The values that ``quantize_values`` stored, [B, H, n, d] in ``dtype``."""
    return reference.dequantize_values(codes, scale, minimum, bits, dtype)


def append_keys(
    keys: Tensor,
    codes: Tensor,
    scale: Tensor,
    minimum: Tensor,
    start: int | Tensor,
    bits: int,
    group: int,
    *,
    backend: str = "",
) -> None:
    """Quantize a block of keys straight into preallocated buffers.

    Parameters
    ----------
    keys: [B, H, n, d]; n a multiple of ``group``.
    codes, scale, minimum: the buffers, shaped as ``quantize_keys`` returns them for N >= start + n tokens; written.
    start: the first token's slot, a multiple of ``group``; an int64 tensor of one element stays on its device.
    """
    check(keys, bits)
    _divides("group", group, "n", keys.shape[2])
    if isinstance(start, int):
        _divides("group", group, "start", start)
    _put(keys, codes, scale, minimum, start, bits, group, by_token=False, backend=backend)


def append_values(
    values: Tensor,
    codes: Tensor,
    scale: Tensor,
    minimum: Tensor,
    start: int | Tensor,
    bits: int,
    group: int | None = None,
    *,
    backend: str = "",
) -> None:
    """Quantize a block of values straight into preallocated buffers; as ``append_keys``, per token."""
    check(values, bits)
    group = values.shape[3] if group is None else group
    _divides("group", group, "d", values.shape[3])
    _put(values, codes, scale, minimum, start, bits, group, by_token=True, backend=backend)


def check(x: Tensor, bits: int) -> None:
    """Refuse a width or a shape that cannot be packed.

    Raises
    ------
    InputError: bits other than 2, 4 and 8, not four dimensions, or d * bits not a multiple of 8.
    """
    if bits not in BITS:
        raise InputError(f"bits must be one of {', '.join(map(str, BITS))}, got {bits!r}")
    if x.ndim != 4 or not x.is_floating_point():
        raise InputError(f"expected a floating tensor [B, H, n, d], got {x.dtype} of shape {tuple(x.shape)}")
    if x.shape[3] * bits % 8:
        raise InputError(f"d * bits must be a multiple of 8, got d {x.shape[3]} at {bits} bits")


def _divides(name: str, part: int, whole_name: str, whole: int) -> None:
    if part < 1 or whole % part:
        raise InputError(f"{name} must divide {whole_name}, got {name} {part} and {whole_name} {whole}")


def _buffers(x: Tensor, bits: int, parameters: tuple[int, int], dtype: torch.dtype) -> Quantized:
    B, H, n, d = x.shape
    codes = torch.empty(B, H, n, d * bits // 8, dtype=torch.uint8, device=x.device)
    scale = torch.empty(B, H, *parameters, dtype=dtype, device=x.device)
    return codes, scale, torch.empty_like(scale)


def _put(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    minimum: Tensor,
    start: int | Tensor,
    bits: int,
    group: int,
    *,
    by_token: bool,
    backend: str,
) -> None:
    from ctxcomp_kernels.kv_quant.op import kv_append

    n, capacity = x.shape[2], codes.shape[2]
    slot, offset = (None, start) if isinstance(start, int) else (start, 0)
    if not 0 <= offset <= capacity - n:
        raise InputError(f"{n} tokens at slot {offset} do not fit into buffers of {capacity} tokens")
    kv_append(x, codes, scale, minimum, slot, offset, bits, group, by_token, backend)
