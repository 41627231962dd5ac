"""The decode attention as an operator of torch: torch.compile and CUDA graphs pass it through whole."""

from __future__ import annotations

import logging
from functools import lru_cache

import torch
from torch import Tensor

from ctxcomp_kernels.dispatch import choose
from ctxcomp_kernels.kv_attention import reference
from ctxcomp_kernels.kv_attention.body import KVBody

_log = logging.getLogger(__name__)


@torch.library.custom_op("ctxcomp::kv_decode", mutates_args=())
def kv_decode(
    q: Tensor,
    codes: list[Tensor],
    optional: list[Tensor | None],
    bits: list[int],
    tail_k: Tensor | None,
    tail_v: Tensor | None,
    tail_valid: Tensor | None,
    scaling: float,
    causal: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Attention over bodies laid flat: six tensors (``codes``), two optional ones and two widths each."""
    bodies = [
        KVBody(*codes[6 * i : 6 * i + 6], *bits[2 * i : 2 * i + 2], *optional[2 * i : 2 * i + 2])  # type: ignore[arg-type]
        for i in range(len(bits) // 2)
    ]
    if choose("kv_attention", q.device, backend=backend) == "triton":
        from ctxcomp_kernels.kv_attention import launch

        if launch.fits(q, bodies):
            return launch.decode(q, bodies, tail_k, tail_v, scaling, tail_valid, causal)
        _say_misfit(str(q.dtype), q.shape[3])
    return reference.decode(q, bodies, tail_k, tail_v, scaling, tail_valid, causal)


@lru_cache(maxsize=16)
def _say_misfit(dtype: str, d: int) -> None:
    _log.warning(
        "kv_attention with %s queries of %d channels runs on the reference: the kernel wants key groups of a "
        "multiple of 16 tokens and d >= 16",
        dtype,
        d,
    )


@kv_decode.register_fake
def _(
    q: Tensor,
    codes: list[Tensor],
    optional: list[Tensor | None],
    bits: list[int],
    tail_k: Tensor | None,
    tail_v: Tensor | None,
    tail_valid: Tensor | None,
    scaling: float,
    causal: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(q.shape[:3], dtype=torch.float32)
