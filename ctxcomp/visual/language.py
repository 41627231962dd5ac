"""What the first layers of the language model pay each visual token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.visual.adapters.base import Adapter
from ctxcomp.visual.encoded import Encoded
from ctxcomp.visual.prompt import whole_prompt
from ctxcomp.visual.watch import Heard, attention_of, depth_of, watch


def language_attention(
    adapter: Adapter, inputs: Mapping[str, Any], encoded: Encoded, layer: int, queries: str
) -> Tensor:
    """Attention of one layer to each visual token, the mean of heads and queries, float32 ``[n]``.

    The layers up to this one run once on the whole prompts; later ones do not run.

    Parameters
    ----------
    layer: of the language model, from 0.
    queries: "last", the last token of each prompt; "after", all tokens after its last image.
    """
    depth = depth_of(adapter.language)
    if not 0 <= layer < depth:
        raise InputError(f"the language model has layers 0 to {depth - 1}, got {layer}")
    with torch.no_grad(), watch(adapter.language, [layer], stop=True) as heard:
        adapter.inner(**whole_prompt(adapter, inputs, encoded), use_cache=False)
    call = heard[layer][0]
    rows = []
    for i, (ids, mask) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)):
        images = torch.nonzero((ids == adapter.image_token) & mask).flatten()
        if not len(images):
            continue
        asking = torch.nonzero(mask).flatten()
        asking = asking[-1:] if queries == "last" else asking[asking > images[-1]]
        if not len(asking):
            raise InputError(f"prompt {i} ends with its images: no text after them can attend to them")
        one = _with_mask(call, i)
        rows.append(attention_of(one, asking)[0][:, images].mean(0))
    return torch.cat(rows).cpu()


def _with_mask(call: Heard, row: int) -> Heard:
    """One row of a call. Without a mask the attention is causal."""
    query, key = call.query[row : row + 1], call.key[row : row + 1]
    mask = None if call.mask is None else call.mask[row : row + 1]
    if mask is None:
        n = query.shape[2]
        mask = torch.ones(1, 1, n, n, dtype=torch.bool, device=query.device).tril()
    return replace(call, query=query, key=key, mask=mask)
