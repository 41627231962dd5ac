"""Which implementation of an operation runs, decided in one place and said once.

There are three: ``"triton"`` (the fused kernel: CUDA tensors, or any tensor under ``TRITON_INTERPRET=1``), ``"torch"``
(an operator of torch that does the same on this device) and ``"reference"`` (the specification, plain torch). The
environment variable ``CTXCOMP_KERNELS`` names one for all operations; an argument ``backend=`` wins over it.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from functools import lru_cache
from typing import TYPE_CHECKING

from ctxcomp.errors import InputError

if TYPE_CHECKING:
    import torch

BACKENDS = ("triton", "torch", "reference")
VARIABLE = "CTXCOMP_KERNELS"
_log = logging.getLogger(__name__)


def interpreting() -> bool:
    """Whether Triton kernels run in Triton's interpreter: on any device, slowly, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def choose(op: str, device: torch.device, *, backend: str = "", torch_op: bool = False, warn: bool = True) -> str:
    """The implementation of ``op`` that runs on ``device``.

    Parameters
    ----------
    op: name of the operation, for the log and for errors.
    device: where the tensors are.
    backend: one of ``BACKENDS`` to insist on it; "" to let the environment variable, then the device decide.
    torch_op: whether an operator of torch fits these tensors.
    warn: whether the reference is worth a warning; False where it is as good a way as any.

    Raises
    ------
    InputError: an unknown backend, or one that cannot run here.
    """
    wanted = backend or os.environ.get(VARIABLE, "")
    if wanted and wanted not in BACKENDS:
        raise InputError(f"backend (or {VARIABLE}) must be one of {', '.join(BACKENDS)}, got {wanted!r}")
    can_triton = (device.type == "cuda" or interpreting()) and _has_triton()
    if backend == "triton" and not can_triton:
        raise InputError(
            f"{op}: the Triton kernel needs the package triton and CUDA tensors (or TRITON_INTERPRET=1), "
            f"got tensors on {device.type}: leave backend empty to let the device decide"
        )
    if backend == "torch" and not torch_op:
        raise InputError(f"{op}: no operator of torch fits these tensors on {device.type}: leave backend empty")
    can = {"triton": can_triton, "torch": torch_op, "reference": True}
    chosen = next(name for name in (wanted, *BACKENDS) if can.get(name))
    _say(op, device.type, chosen, logging.WARNING if warn and chosen == "reference" else logging.INFO)
    return chosen


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@lru_cache(maxsize=256)
def _say(op: str, device: str, chosen: str, level: int) -> None:
    """Say once what an operation runs on."""
    names = {"triton": "its Triton kernel", "torch": "torch's own operator", "reference": "the plain torch reference"}
    _log.log(level, "%s on %s runs on %s", op, device, names[chosen])
