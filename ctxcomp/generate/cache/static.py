"""Quantized caches of fixed size, which torch.compile and CUDA graphs can follow: "static8", "static4"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from ctxcomp.errors import InputError
from ctxcomp.fields import check_fields

SCALES = 4
"""Bytes at the end of each packed vector: its scale and its minimum, float16."""


@dataclass(frozen=True)
class Static:
    """Preallocated buffers of per-token codes.

    Parameters
    ----------
    max_tokens: tokens the buffers hold, prompt and answer together.
    bits: 8 or 4.
    """

    max_tokens: int
    bits: Literal[8, 4] = 8

    def __post_init__(self) -> None:
        check_fields(self)
        if self.max_tokens < 1:
            raise InputError(f"static{self.bits}: max_tokens must be 1 or more, got {self.max_tokens}")


class StaticLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values as uint8 ``[B, H, max_tokens, d * bits / 8 + 4]``: codes, then scale and minimum of the vector.

    The buffers are what ``update`` returns: the attention "ctxcomp" decodes them.
    """

    is_compileable = True
    is_croppable = True
    is_sliding = False
    keys: Tensor
    values: Tensor
    cumulative_length: Tensor  # type: ignore[assignment]

    def __init__(self, static: Static, config: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.static, self.config = static, config
        self.cumulative_length = torch.tensor(0, dtype=torch.int64)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the buffers; needs no compilation, as the prompt is not compiled."""
        if getattr(self.config, "_attn_implementation", None) != "ctxcomp":
            raise InputError("a static cache needs the attention 'ctxcomp': call ctxcomp.generate.cache.install(model)")
        self.device, self.batch_size = key_states.device, key_states.shape[0]
        self.keys, self.values = (self._buffer(states) for states in (key_states, value_states))
        self.cumulative_length = self.cumulative_length.to(self.device)
        if not torch.compiler.is_compiling():
            for tensor in (self.keys, self.values, self.cumulative_length):
                torch._dynamo.mark_static_address(tensor)
        self.is_initialized = True

    def _buffer(self, states: Tensor) -> Tensor:
        b, h, _, d = states.shape
        width = d * self.static.bits // 8 + SCALES
        return torch.zeros(b, h, self.static.max_tokens, width, dtype=torch.uint8, device=states.device)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write tokens ``[B, H, q, d]``; returns the packed buffers."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        at = torch.arange(key_states.shape[2], device=self.device) + self.cumulative_length
        self.cumulative_length.add_(key_states.shape[2])
        self.keys.index_copy_(2, at, pack(key_states, self.static.bits))
        self.values.index_copy_(2, at, pack(value_states, self.static.bits))
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The whole buffer, masked beyond what is written."""
        return self.static.max_tokens, 0

    def get_seq_length(self) -> Any:
        """Tokens seen; an int64 scalar tensor once there are any, which a compiled graph can follow."""
        return self.cumulative_length if self.is_initialized else 0

    def get_max_length(self) -> int:
        """Tokens the buffers hold."""
        return self.static.max_tokens

    def physical_length(self) -> int:
        """Slots allocated."""
        return self.static.max_tokens if self.is_initialized else 0

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens."""
        if tokens_to_remove > 0:
            raise InputError(f"crop takes a number <= 0, minus the tokens to remove, got {tokens_to_remove}")
        self.cumulative_length.add_(tokens_to_remove).clamp_(min=0)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every batch row ``repeats`` times."""
        if self.is_initialized:
            self.batch_select_indices(torch.arange(self.batch_size, device=self.device).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the batch rows ``indices``."""
        if self.is_initialized:
            self.keys, self.values = self.keys[indices], self.values[indices]
            self.batch_size = self.keys.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that is held, by name."""
        return {"keys": self.keys, "values": self.values} if self.is_initialized else {}


def pack(x: Tensor, bits: int) -> Tensor:
    """Vectors ``[..., d]`` as uint8 ``[..., d * bits / 8 + 4]``, each with its own scale and minimum."""
    low, high = x.aminmax(dim=-1, keepdim=True)
    low = low.to(torch.float16)
    scale = ((high.float() - low.float()) / (2**bits - 1)).clamp(min=1e-7).to(torch.float16)
    codes = ((x.float() - low.float()) / scale.float()).round().clamp(0, 2**bits - 1).to(torch.uint8)
    if bits == 4:
        codes = codes[..., ::2] | codes[..., 1::2] << 4
    return torch.cat([codes, scale.view(torch.uint8), low.view(torch.uint8)], dim=-1)


def unpack(packed: Tensor, like: Tensor) -> Tensor:
    """The vectors ``[..., d]`` in the dtype of ``like [..., d]``."""
    width = packed.shape[-1] - SCALES
    codes, scale, low = packed[..., :width], packed[..., width : width + SCALES // 2], packed[..., -SCALES // 2 :]
    if codes.shape[-1] * 2 == like.shape[-1]:
        codes = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2)
    step, minimum = (x.contiguous().view(torch.float16).float() for x in (scale, low))
    return (codes.float() * step + minimum).to(like.dtype)
