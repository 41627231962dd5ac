"""Linear layers with packed integer weights and 16-bit activations: ``linear``, ``dequantize`` and the CPU's own way.

On a GPU one Triton launch multiplies up to 64 rows by weights of 2, 4 or 8 bits that stay packed; more rows, and other
widths, go through ``dequantize`` and a plain matrix product. On a CPU ``prepare_cpu`` repacks 4-bit weights for torch's
own operator, which ``linear_cpu`` calls; without it the reference runs, and a warning says so once.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp_kernels import dispatch
from ctxcomp_kernels.pack import check_packed
from ctxcomp_kernels.wna16 import reference
from ctxcomp_kernels.wna16.cpu import CpuWeight, linear_cpu, prepare_cpu

__all__ = ["CpuWeight", "dequantize", "linear", "linear_cpu", "prepare_cpu"]


def linear(
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    group_size: int,
    bias: Tensor | None = None,
    *,
    backend: str = "",
) -> Tensor:
    """``x @ W.T + bias`` with ``W[n, k] = (code - zero) * scale``, accumulated in float32.

    One operator to ``torch.compile``: ``fullgraph=True`` goes through. Gradients flow to ``x`` and ``bias``.

    Parameters
    ----------
    x: ``[..., K]``, float16, bfloat16 or float32.
    packed: int32 ``[ceil(K * bits / 32), N]``, from ``ctxcomp_kernels.pack.pack``.
    scales: float16, bfloat16 or float32 ``[ceil(K / g), N]``.
    zeros: uint8 ``[ceil(K / g), N]``, the codes that stand for 0; None: ``2 ** (bits - 1)`` everywhere.
    bits: width of a code, 1 to 8.
    group_size: g, consecutive columns that share a scale; K for one scale per row.
    bias: ``[N]`` or None.
    backend: see ``ctxcomp_kernels.dispatch``.

    Returns
    -------
    ``[..., N]`` in the dtype of ``x``.

    Raises
    ------
    InputError: shapes or dtypes that do not fit each other.
    """
    check(packed, scales, zeros, bits, group_size, x.shape[-1])
    n = packed.shape[1]
    if bias is not None and bias.shape != (n,):
        raise InputError(f"bias must be [{n}], got {list(bias.shape)}")
    if not x.is_floating_point():
        raise InputError(f"x must be float16, bfloat16 or float32, got {x.dtype}")
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    out: Tensor = torch.ops.ctxcomp.wna16_linear(rows, packed, scales, zeros, bias, bits, group_size, backend)
    return out.view(*x.shape[:-1], n)


def dequantize(
    packed: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    group_size: int,
    k: int,
    dtype: torch.dtype,
    *,
    backend: str = "",
) -> Tensor:
    """The weight ``[N, K]`` in ``dtype``, computed in float32 and rounded once.

    A view whose memory is ``[K, N]``, the order in which the words lie. Parameters as in ``linear``.

    Raises
    ------
    InputError: shapes or dtypes that do not fit each other.
    """
    check(packed, scales, zeros, bits, group_size, k)
    if dispatch.choose("wna16.dequantize", packed.device, backend=backend, warn=False) == "triton":
        from ctxcomp_kernels.wna16 import fused

        return fused.dequantize(packed, scales, zeros, bits, group_size, k, dtype)
    return reference.dequantize(packed, scales, zeros, bits, group_size, k, dtype)


def check(packed: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group_size: int, k: int) -> None:
    """Check that the tensors of one weight fit each other.

    Raises
    ------
    InputError: they do not.
    """
    check_packed(packed, bits, k)
    if group_size < 1:
        raise InputError(f"group_size must be 1 or more, got {group_size}")
    expected = (-(-k // group_size), packed.shape[1])
    if scales.shape != expected or not scales.is_floating_point():
        raise InputError(
            f"scales of {k} columns in groups of {group_size} must be floating {list(expected)}, "
            f"got {scales.dtype} {list(scales.shape)}"
        )
    if zeros is not None and (zeros.shape != expected or zeros.dtype != torch.uint8):
        raise InputError(f"zeros must be uint8 {list(expected)} or None, got {zeros.dtype} {list(zeros.shape)}")


@torch.library.custom_op("ctxcomp::wna16_linear", mutates_args=())
def _linear(
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bias: Tensor | None,
    bits: int,
    group_size: int,
    backend: str,
) -> Tensor:
    if dispatch.choose("wna16.linear", x.device, backend=backend) == "triton":
        from ctxcomp_kernels.wna16 import fused

        return fused.linear(x, packed, scales, zeros, bits, group_size, bias)
    return reference.linear(x, packed, scales, zeros, bits, group_size, bias)


@_linear.register_fake
def _(x: Tensor, packed: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape[0], packed.shape[1])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, packed, scales, zeros, bias, ctx.bits, ctx.group_size, ctx.backend = inputs
    ctx.k, ctx.has_bias = x.shape[1], bias is not None and bias.requires_grad
    ctx.save_for_backward(packed, scales, zeros)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    packed, scales, zeros = ctx.saved_tensors
    weight = dequantize(packed, scales, zeros, ctx.bits, ctx.group_size, ctx.k, grad.dtype, backend=ctx.backend)
    return grad @ weight, None, None, None, grad.sum(0) if ctx.has_bias else None, None, None, None


_linear.register_autograd(_backward, setup_context=_save)
