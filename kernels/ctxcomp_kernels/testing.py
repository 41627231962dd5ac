"""What the tests of every kernel share: odd shapes, poisoned memory, a tolerance that can fail."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

LENGTHS = (1, 63, 64, 111, 130)
"""Numbers of tokens or rows: one, around a block's end, and nowhere near one."""

HEAD_DIMS = (64, 96, 128, 256)

ALLOCATORS = ("empty", "empty_like", "empty_strided")


def relative_rmse(expected: Tensor, actual: Tensor) -> float:
    """Root of the mean squared difference, relative to the root mean square of ``expected``; in float64."""
    wide = expected.detach().to("cpu", torch.float64)
    difference = wide - actual.detach().to("cpu", torch.float64)
    scale = wide.square().mean().sqrt()
    return float(difference.square().mean().sqrt() / scale.clamp_min(1e-30))


def assert_close(name: str, expected: Tensor, actual: Tensor, tolerance: float) -> None:
    """Compare a kernel's result to its reference.

    Parameters
    ----------
    name: what is compared, for the message.
    expected, actual: the reference's and the kernel's tensors.
    tolerance: greatest relative RMSE allowed; it should fail when a constant of the kernel is altered.

    Raises
    ------
    AssertionError: other shapes or dtypes, a value that is not finite on either side, or too great a difference.
    """
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        raise AssertionError(
            f"{name}: expected {expected.dtype} {list(expected.shape)}, got {actual.dtype} {list(actual.shape)}"
        )
    for side, tensor in (("expected", expected), ("actual", actual)):
        if not torch.isfinite(tensor).all():
            raise AssertionError(f"{name}: {int((~torch.isfinite(tensor)).sum())} values of {side} are not finite")
    if not expected.numel():
        return
    error = relative_rmse(expected, actual)
    if not error <= tolerance:
        worst = float((expected.double() - actual.double()).abs().max())
        raise AssertionError(f"{name}: relative RMSE {error:.3e} > {tolerance:.3e}, greatest difference {worst:.3e}")


@contextmanager
def poisoned() -> Iterator[None]:
    """Within the block fresh memory holds NaN (integers: all bits set): an element nobody writes shows.

    Only allocations through ``torch.empty``, ``empty_like``, ``empty_strided`` and ``Tensor.new_empty`` are reached.
    """
    with ExitStack() as stack:
        for name in ALLOCATORS:
            stack.enter_context(patch.object(torch, name, _poisoning(getattr(torch, name))))
        stack.enter_context(patch.object(torch.Tensor, "new_empty", _poisoning(torch.Tensor.new_empty)))
        yield


def _poisoning(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(allocate)
    def poison(*args: Any, **kwargs: Any) -> Tensor:
        tensor = allocate(*args, **kwargs)
        if tensor.device.type == "meta" or tensor.dtype == torch.bool:
            return tensor
        if tensor.is_floating_point() or tensor.is_complex():
            return tensor.fill_(float("nan"))
        return tensor.fill_(-1 if tensor.dtype.is_signed else torch.iinfo(tensor.dtype).max)

    return poison
