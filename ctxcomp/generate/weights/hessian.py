"""What a layer's calibration inputs say about its weights: the damped Hessian and its factors."""

from __future__ import annotations

import torch
from torch import Tensor

from ctxcomp.errors import InputError


def inverse_factor(hessian: Tensor, damping: float = 0.01) -> Tensor:
    """The upper triangular ``U [K, K]`` with ``UᵀU = (H + λI)⁻¹``: row j tells how later columns undo an error in j.

    The matrix is factored back to front, ``H = R Rᵀ`` with R upper triangular, and ``U = R⁻¹``: one Cholesky
    factorisation and one triangular solve, and the inverse itself is never formed.

    Parameters
    ----------
    hessian: ``[K, K]``, 2/n of the summed outer products of the inputs. Channels that never fired ("dead", zero on
        the diagonal) get a diagonal of their own: they neither give nor take corrections.
    damping: λ as a share of the mean of the diagonal, > 0. It grows tenfold until the factorisation succeeds.

    Raises
    ------
    InputError: the Hessian holds values that are not finite, so the calibration run overflowed.
    """
    if not bool(torch.isfinite(hessian).all()):
        raise InputError("the calibration inputs of this layer are not finite: run the model in bfloat16 or float32")
    matrix = hessian.clone()
    diagonal = matrix.diagonal()
    dead = diagonal <= 0
    mean = float(diagonal[~dead].mean()) if not bool(dead.all()) else 1.0
    diagonal[dead] = mean
    for attempt in range(6):
        damped = matrix.clone()
        damped.diagonal().add_(damping * 10**attempt * mean)
        lower, info = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if int(info) == 0:
            identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
            factor: Tensor = torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)
            return factor
    raise InputError("the Hessian of this layer is not positive semi-definite: the calibration data are damaged")


def output_error(difference: Tensor, hessian: Tensor) -> float:
    """``½ tr(Δ H Δᵀ)``: the squared error in the layer's output per token, of a weight error ``Δ [N, K]``."""
    return 0.5 * float(((difference @ hessian) * difference).sum())
