"""The shorter prompt: the kept visual tokens between unchanged text, ready for the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.types import CompressedVision
from ctxcomp.visual.adapters.base import PER_TOKEN, PIXELS, Adapter
from ctxcomp.visual.encoded import Encoded

Positions = Literal["original", "contiguous"]


@dataclass(frozen=True, eq=False)
class PrunedPrompt:
    """A batch of prompts with fewer visual tokens.

    Parameters
    ----------
    inputs: ids, mask, types and positions of the shorter prompts, padded on the left.
    features: of the kept tokens ``[kept, hidden]``; ``deeper`` likewise, for later layers.
    results: what was kept of each prompt.
    encoded: the pages before.
    kept: kept tokens among all visual tokens, int64 ``[kept]``.
    gapped: whether positions have gaps in the row that masks are made from.
    """

    adapter: Adapter
    inputs: Mapping[str, Tensor]
    features: Tensor
    deeper: tuple[Tensor, ...]
    results: tuple[CompressedVision, ...]
    encoded: Encoded
    kept: Tensor
    gapped: bool
    given: Mapping[str, Any]
    """The prompts before: the processor's tensors without the pixels, for ``report``."""
    seconds: float
    """Choosing took, from features to the shorter prompt."""

    def model_inputs(self) -> dict[str, Any]:
        """Arguments of the model's own ``generate`` and ``forward``: ``model.generate(**pruned.model_inputs())``.

        They hold ``use_cache=True``: without a cache transformers takes positions with gaps for packed sequences and
        hides each from the next, so that wrong tokens come out without a warning.
        """
        outputs = self.adapter.wrap(self.encoded.output, self.features, self.deeper)
        return {**self.inputs, "mm_encoder_outputs": outputs, "use_cache": True}

    def whole(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of ``forward`` for the full prompts, with the images that are encoded already."""
        return whole_prompt(self.adapter, with_mask(inputs), self.encoded)

    def generate(self, **options: Any) -> Tensor:
        """The model's ``generate`` on this prompt; gives the ids of prompt and answer ``[B, n]``.

        Raises
        ------
        InputError: the options would make the model misread the prompt.
        """
        if options.get("use_cache") is False and self.gapped:
            raise InputError(
                "without a cache transformers reads positions with gaps as packed sequences and hides each from the "
                "next: leave use_cache on, or prune with positions='contiguous'"
            )
        given = self.model_inputs()
        clash = sorted(set(options) & set(given) - {"use_cache"})
        if clash:
            raise InputError(f"{', '.join(clash)} belong to the pruned prompt and cannot be given again")
        with torch.no_grad():
            ids: Tensor = self.adapter.model.generate(**{**given, **options})
        return ids


def put_together(
    adapter: Adapter,
    inputs: Mapping[str, Any],
    kept: Tensor,
    positions: Positions,
) -> tuple[dict[str, Tensor], bool]:
    """Prompts without the visual tokens that are not kept.

    Parameters
    ----------
    kept: bool ``[n]`` over all visual tokens.
    positions: "original" leaves each token where it stood; "contiguous" closes the gaps.

    Returns
    -------
    Tensors of the shorter prompts, padded on the left, and whether their positions have gaps.
    """
    ids = inputs["input_ids"]
    stays = inputs["attention_mask"].bool().clone()
    stays[ids == adapter.image_token] = kept.to(ids.device)
    full = adapter.positions(inputs)
    rows = [torch.nonzero(row).flatten() for row in stays]
    longest = max(len(row) for row in rows)

    def gather(values: Tensor) -> Tensor:
        short = values.new_zeros(len(rows), longest)
        for i, row in enumerate(rows):
            if len(row):
                short[i, longest - len(row) :] = values[i, row]
        return short

    made = {name: gather(inputs[name]) for name in PER_TOKEN if inputs.get(name) is not None}
    if bool((made["attention_mask"] == 0).any()):
        # A padded image token would ask for a feature; any other id is never looked at.
        made["input_ids"] = made["input_ids"].masked_fill(made["attention_mask"] == 0, _padding(adapter))
    if full.dim() == 2:
        place = gather(full) if positions == "original" else _count(made["attention_mask"])
        made["position_ids"] = place
        steps = place.diff(dim=-1)[made["attention_mask"][:, 1:].bool() & made["attention_mask"][:, :-1].bool()]
        return made, bool((steps != 1).any())
    # The first row serves masks alone and must have no gaps; the other three are places on the page.
    axes = [gather(axis) for axis in full] if positions == "original" else [_count(made["attention_mask"])] * 3
    made["position_ids"] = torch.stack([_count(made["attention_mask"]), *axes])
    return made, False


def whole_prompt(adapter: Adapter, inputs: Mapping[str, Any], encoded: Encoded) -> dict[str, Any]:
    """Arguments of ``forward`` for full prompts whose images are encoded already.

    Parameters
    ----------
    inputs: with a mask.
    """
    places = adapter.positions(inputs)
    if places.dim() == 3:
        places = torch.cat([torch.arange(places.shape[-1], device=places.device).expand(1, *places.shape[1:]), places])
    given = {name: inputs[name] for name in PER_TOKEN if inputs.get(name) is not None}
    outputs = adapter.wrap(encoded.output, encoded.features, encoded.deeper)
    return {**given, "position_ids": places, "mm_encoder_outputs": outputs}


def _count(mask: Tensor) -> Tensor:
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def _padding(adapter: Adapter) -> int:
    pad = getattr(adapter.model.config.get_text_config(decoder=True), "pad_token_id", None)
    return pad if isinstance(pad, int) and pad != adapter.image_token else 0


def with_mask(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with an attention mask.

    Raises
    ------
    InputError: the mask hides an image token, or does not fit.
    """
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    if mask is None:
        mask = torch.ones_like(ids)
    if mask.shape != ids.shape:
        raise InputError(f"attention_mask is {list(mask.shape)} and input_ids {list(ids.shape)}: they must agree")
    return {**inputs, "attention_mask": mask}


def without_pixels(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What a processor made, but for the images themselves."""
    return {name: value for name, value in inputs.items() if name not in PIXELS}


def text_after_images(ids: Sequence[int], mask: Sequence[int], image_token: int) -> list[int]:
    """The ids after the last image token, or before the first one where nothing follows: what is asked."""
    places = [i for i, token in enumerate(ids) if token == image_token and mask[i]]
    real = [i for i, on in enumerate(mask) if on]
    after = [i for i in real if i > places[-1]] if places else real
    return [ids[i] for i in after or [i for i in real if i < places[0]]]
