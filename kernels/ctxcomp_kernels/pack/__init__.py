"""Codes to words and back: ``pack`` and ``unpack``."""

from __future__ import annotations

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp_kernels import dispatch
from ctxcomp_kernels.pack import reference

__all__ = ["pack", "unpack"]


def pack(codes: Tensor, bits: int, *, backend: str = "") -> Tensor:
    """Pack codes densely along K into 32-bit words, low bits first.

    Parameters
    ----------
    codes: uint8 ``[N, K]``, each below ``2 ** bits`` (not checked on a GPU).
    bits: 1 to 8.
    backend: see ``ctxcomp_kernels.dispatch``.

    Returns
    -------
    int32 ``[ceil(K * bits / 32), N]``, contiguous; for 4 bits the layout of GPTQ's ``qweight``.

    Raises
    ------
    InputError: another shape, dtype or width, or (on a CPU) a code that does not fit.
    """
    _check_bits(bits)
    if codes.dtype != torch.uint8 or codes.ndim != 2:
        raise InputError(f"codes must be uint8 [N, K], got {codes.dtype} {list(codes.shape)}")
    if codes.device.type == "cpu" and codes.numel() and int(codes.max()) >= 1 << bits:
        raise InputError(f"codes of {bits} bits must be below {1 << bits}, got {int(codes.max())}")
    if _choose(codes, backend) == "triton":
        from ctxcomp_kernels.pack import fused

        return fused.pack(codes, bits)
    return reference.pack(codes, bits)


def unpack(packed: Tensor, bits: int, k: int, *, backend: str = "") -> Tensor:
    """Take words apart into codes: the inverse of ``pack``.

    Parameters
    ----------
    packed: int32 ``[ceil(K * bits / 32), N]``.
    bits: 1 to 8.
    k: K, the number of codes in a row.
    backend: see ``ctxcomp_kernels.dispatch``.

    Returns
    -------
    uint8 ``[N, K]``, contiguous.

    Raises
    ------
    InputError: another shape, dtype or width.
    """
    check_packed(packed, bits, k)
    if _choose(packed, backend) == "triton":
        from ctxcomp_kernels.pack import fused

        return fused.unpack(packed, bits, k)
    return reference.unpack(packed, bits, k)


def check_packed(packed: Tensor, bits: int, k: int) -> None:
    """Check words against the width and number of the codes they should hold.

    Raises
    ------
    InputError: they cannot hold them.
    """
    _check_bits(bits)
    words = -(-k * bits // 32)
    if packed.dtype != torch.int32 or packed.ndim != 2 or packed.shape[0] != words:
        raise InputError(
            f"{k} codes of {bits} bits are packed as int32 [{words}, N], got {packed.dtype} {list(packed.shape)}"
        )


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise InputError(f"bits must be 1 to 8, got {bits}")


def _choose(tensor: Tensor, backend: str) -> str:
    return dispatch.choose("pack", tensor.device, backend=backend, warn=False)
