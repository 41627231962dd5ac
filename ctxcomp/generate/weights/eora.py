"""EoRA: a low-rank part that makes up for what quantization did to a layer's outputs, without training.

Source: Liu et al. 2024, "EoRA: Fine-tuning-free Compensation for Compressed LLM with Eigenspace Low-Rank Approximation"
(arXiv 2410.21271). Deviation: the singular values are shared out between both factors, which rounds better to 16 bits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctxcomp.errors import InputError

if TYPE_CHECKING:
    from ctxcomp.generate.weights.statistics import LayerStatistics
    from ctxcomp.generate.weights.tensors import QuantizedWeight

SMALLEST_EIGENVALUE = 1e-6
"""Of the largest: directions with less are inputs that calibration never saw."""


def compensate(
    weight: Tensor,
    quantized: QuantizedWeight,
    statistics: LayerStatistics,
    rank: int,
    dtype: torch.dtype = torch.float16,
) -> QuantizedWeight:
    """The same weight with the rank-r part that lowers its output error on the calibration inputs most.

    With the error ``E = W - Ŵ`` and the inputs' ``H = QΛQᵀ``, the ``BA`` with the least ``‖(E - BA) X‖`` is the
    truncated SVD of ``E Q Λ^½``, taken back to the space of the inputs.

    Parameters
    ----------
    weight: the original, [N, K], float32.
    quantized: by any method, without a low-rank part.
    statistics: with the Hessian of the layer's inputs.
    rank: >= 1; at most min(N, K) is used.
    dtype: of the stored factors.

    Raises
    ------
    InputError: the rank is not positive, or there is a low-rank part already.
    """
    if rank < 1:
        raise InputError(f"the rank must be 1 or more, got {rank}")
    if quantized.low_rank is not None:
        raise InputError("this weight has a low-rank part already: compensate the weight without it")
    values, vectors = torch.linalg.eigh(statistics.hessian)
    roots = values.clamp(min=float(values[-1]) * SMALLEST_EIGENVALUE).sqrt()
    error = weight - quantized.dequantize()
    u, sigma, v = torch.linalg.svd(error @ (vectors * roots), full_matrices=False)
    share = sigma[:rank].sqrt()
    b = u[:, :rank] * share
    a = share[:, None] * ((v[:rank] / roots) @ vectors.T)
    return replace(quantized, low_rank=(b.to(dtype), a.to(dtype)))
