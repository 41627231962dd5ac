"""The attention "ctxcomp": exact masks for evicted caches, and the queries handed to the methods that ask for them.

Registered by ``install``, through transformers' own interfaces; importing this has no effect.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from ctxcomp.errors import InputError
from ctxcomp.generate.cache.evictor import slot_valid
from ctxcomp.generate.cache.layer import CompressedLayer
from ctxcomp.generate.cache.static import unpack


def install(model: Any = None) -> None:
    """Register the attention "ctxcomp" with transformers, and switch ``model`` to it if one is given."""
    AttentionInterface.register("ctxcomp", attention)
    AttentionMaskInterface.register("ctxcomp", mask)
    if model is not None:
        model.set_attn_implementation("ctxcomp")


def mask(
    *,
    q_length: int,
    kv_length: int,
    mask_function: Any,
    q_offset: int | Tensor = 0,
    attention_mask: Tensor | None = None,
    **rest: Any,
) -> Tensor | None:
    """The padding ``[B, seen]`` alone (None without padding) of a plain causal mask; any other in full, 4-D.

    The layers know better where their slots are from than the sizes given here.
    """
    static = isinstance(q_offset, Tensor) or kv_length != q_offset + q_length
    if static:
        rest["allow_is_causal_skip"] = False  # the slots beyond what is written must be masked
    if static or mask_function is not causal_mask_function:
        full: Tensor | None = sdpa_mask(
            q_length=q_length,
            kv_length=kv_length,
            mask_function=mask_function,
            q_offset=q_offset,  # type: ignore[arg-type]
            attention_mask=attention_mask,
            **rest,
        )
        return full
    return None if attention_mask is None or bool(attention_mask.all()) else attention_mask


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend with ``query [B, Hq, q, d]`` to what the cache returned; gives ``[B, q, Hq, d]``."""
    if kwargs.get("s_aux") is not None:
        raise InputError("the attention 'ctxcomp' knows no learned sinks: use the model's own attention")
    layer: CompressedLayer | None = getattr(key, "_ctxcomp_layer", None)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    padding = attention_mask if attention_mask is not None and attention_mask.ndim == 2 else None
    if layer is not None and layer.attends and (padding is not None or attention_mask is None):
        out = layer.attend(query, _covering(padding, layer.seen), scale).transpose(1, 2)
    else:
        if layer is not None and layer.attends:
            key, value = layer.dense()
        elif key.dtype == torch.uint8:
            key, value = unpack(key, query), unpack(value, query)
        allowed = _allowed(layer, query, key, attention_mask)
        out, _ = sdpa_attention_forward(module, query, key, value, allowed, dropout=dropout, scaling=scale, **kwargs)
    if layer is not None:
        layer.pending = False
        if layer.observes:
            layer.observe(module, query, padding, scale)
    return out, None


def _allowed(layer: CompressedLayer | None, query: Tensor, key: Tensor, given: Tensor | None) -> Tensor | None:
    """Which slots each query may see, ``[B or 1, Hq or 1, q, n]``; None where the plain causal rule says it all."""
    new, slots = query.shape[2], key.shape[2]
    seen = slots if layer is None else layer.seen
    positions = torch.arange(slots, device=key.device)[None, None] if layer is None else layer.slot_positions()
    if given is not None and given.ndim == 4:
        allowed = given if slots == given.shape[-1] else _columns(given, positions, seen)
    elif given is None and not (layer is not None and layer.ragged) and new in (1, slots):
        return None
    else:
        padding = _covering(given, seen)
        positions = positions if padding is None else positions.expand(padding.shape[0], -1, -1)
        at = torch.arange(seen - new, seen, device=positions.device)
        allowed = (positions[:, :, None, :] <= at[:, None]) & slot_valid(positions, padding)[:, :, None, :]
    if allowed.shape[1] in (1, query.shape[1]):
        return allowed
    return allowed.repeat_interleave(query.shape[1] // allowed.shape[1], dim=1)


def _covering(padding: Tensor | None, seen: int) -> Tensor | None:
    """The padding mask as bool, refused if it is too short."""
    if padding is not None and padding.shape[1] < seen:
        raise InputError(f"the attention mask covers {padding.shape[1]} tokens, and {seen} were seen: give all of them")
    return None if padding is None else padding.bool()


def _columns(given: Tensor, positions: Tensor, seen: int) -> Tensor:
    """The columns of a mask over all tokens, ``[B, h, q, seen]``, that belong to the slots."""
    if given.shape[-1] != seen:
        raise InputError(f"a 4-D attention mask must cover all {seen} tokens seen, it has {given.shape[-1]} columns")
    b, h, n = positions.shape
    index = positions.clamp(max=seen - 1).long()[:, :, None, :].expand(b, h, given.shape[2], n)
    picked = given.expand(b, h, -1, -1).gather(3, index)
    gone = ~slot_valid(positions, None)[:, :, None, :]
    return picked.masked_fill(gone, False if given.dtype == torch.bool else torch.finfo(given.dtype).min)
