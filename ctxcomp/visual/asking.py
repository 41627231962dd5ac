"""Pages in a generator's prompt: its processor lays them out for any question, and its tower runs but once."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.generate.prompts import Context, latent_parts, page_parts
from ctxcomp.types import CompressedVision
from ctxcomp.visual.adapters import Adapter, adapter_for
from ctxcomp.visual.adapters.base import Tiles
from ctxcomp.visual.binding import check_pages
from ctxcomp.visual.prompt import put_together, with_mask

if TYPE_CHECKING:
    from ctxcomp.generate.generator import Generator

WHOLE: dict[str, Any] = {"add_special_tokens": False, "truncation": False}
"""The template has written what a prompt needs; a tokenizer's own limit would cut pages off."""


@dataclass(frozen=True, eq=False)
class PagePrompt:
    """One prompt with pruned pages.

    Parameters
    ----------
    ids: its tokens.
    given: what the model takes besides ids and mask, ``[1, n]`` or ``[4, 1, n]`` each.
    features: of the kept tokens ``[kept, hidden]``; ``deeper`` likewise, for later layers.
    reach: positions that it takes of the model's window: with original positions those of the whole pages.
    """

    adapter: Adapter
    ids: list[int]
    given: Mapping[str, Tensor]
    features: Tensor
    deeper: tuple[Tensor, ...]
    reach: int

    def inputs(self) -> dict[str, Any]:
        """Arguments of the model's ``generate``, for one call."""
        outputs = self.adapter.wrap(self.adapter.empty_output(), self.features, self.deeper)
        return {**self.given, "mm_encoder_outputs": outputs}


def page_prompt(generator: Generator, query: str, context: Context, instruction: str = "") -> PagePrompt:
    """The prompt for one question over a context with pages.

    Raises
    ------
    InputError: the generator reads text alone, the pages are not for it, or stand beside vectors.
    """
    parts = page_parts(context)
    if generator.processor is None:
        raise InputError(
            f"the context holds page images and {type(generator.model).__name__} reads text: load a vision-language "
            "checkpoint with Generator.from_pretrained (or give Generator its processor=), or compress text"
        )
    if latent_parts(context):
        raise InputError("pages and vectors cannot stand in one prompt: put text beside pages, or text beside vectors")
    for part in parts:
        check_pages(part, generator.model)
    positions = {part.positions for part in parts}
    if len(positions) > 1:
        raise InputError("some pages keep their original positions and some are contiguous: prune all of them alike")
    text = generator.prompts.with_pages(query, context, instruction)
    inputs = _known(parts, text) or lay_out(generator, text, [size for part in parts for size in part.sizes])
    adapter = adapter_for(generator.model)
    kept = _kept(parts)
    laid_out = int((inputs["input_ids"] == adapter.image_token).sum())
    if laid_out != len(kept):
        raise InputError(
            f"the processor lays out {laid_out} tokens for pages that had {len(kept)}: use the processor, with the "
            "settings, that they were pruned with, and compress pages for one prompt in one call"
        )
    made, _ = put_together(adapter, inputs, kept, positions.pop())
    device, dtype = generator.model.device, generator.model.dtype
    ids = made.pop("input_ids")[0].tolist()
    made.pop("attention_mask")
    layers = zip(*(part.deeper for part in parts), strict=True)
    return PagePrompt(
        adapter=adapter,
        ids=ids,
        given={name: value.to(device) for name, value in made.items()},
        features=torch.cat([part.features for part in parts]).to(device, dtype),
        deeper=tuple(torch.cat(layer).to(device, dtype) for layer in layers),
        reach=int(made["position_ids"].max()) + 1,
    )


def lay_out(generator: Generator, text: str, pages: Sequence[Any]) -> dict[str, Any]:
    """The processor's tensors for a rendered prompt, on the model's device.

    Parameters
    ----------
    pages: images; or width and height of pages that are encoded already, for the layout alone.

    Raises
    ------
    InputError: the processor refuses a page.
    """
    from PIL import Image

    images = [Image.new("RGB", page) if isinstance(page, tuple) else page for page in pages]
    try:
        # One list for the one prompt: processors that take several images of a prompt want them nested.
        made = generator.processor(text=[text], images=[images], return_tensors="pt", **WHOLE)
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError, OSError) as error:
        sizes = ", ".join(f"{image.width} x {image.height}" for image in images[:5])
        raise InputError(f"the model's processor cannot take these pages ({sizes} pixels): {error}") from error
    model = generator.model
    # A tokenizer may give more than the model takes, BERT's types of tokens for example.
    takes = {name for call in (model.forward, model.model.get_image_features) for name in signature(call).parameters}
    found = {name: v.to(model.device) for name, v in made.items() if isinstance(v, Tensor) and name in takes}
    return with_mask({name: v.to(model.dtype) if v.is_floating_point() else v for name, v in found.items()})


def tiles_of(generator: Generator, sizes: Sequence[tuple[int, int]]) -> Tiles | None:
    """Rows and columns of each page's tiles, for models whose tensors do not say; None where nobody does.

    Parameters
    ----------
    sizes: width and height of each page.
    """
    kind, processor = generator.model.config.model_type, generator.processor.image_processor
    if kind in ("idefics3", "smolvlm"):
        found = [processor.get_number_of_image_patches(height, width, {})[1:] for width, height in sizes]
        return [(max(int(rows), 1), max(int(columns), 1)) for rows, columns in found]
    fitted = getattr(sys.modules[type(processor).__module__], "get_optimal_tiled_canvas", None)
    if kind != "internvl" or fitted is None:
        return None
    tile = (processor.size["height"], processor.size["width"])
    limits = (processor.min_patches, processor.max_patches)
    grids = [fitted((height, width), tile, *limits) for width, height in sizes]
    return [(int(rows), int(columns)) for columns, rows in grids]


def _known(parts: Sequence[CompressedVision], text: str) -> dict[str, Any] | None:
    """The tensors that the pages were pruned with, where the prompt is the same."""
    if len(parts) != 1 or parts[0].prompt is None or parts[0].prompt[0] != text:
        return None
    return dict(parts[0].prompt[1])


def _kept(parts: Sequence[CompressedVision]) -> Tensor:
    """Which of all visual tokens stay, bool ``[n]``."""
    masks = []
    for part in parts:
        mask = torch.zeros(sum(part.tokens_in), dtype=torch.bool)
        mask[part.indices] = True
        masks.append(mask)
    return torch.cat(masks)
