"""A page with its kept patches bright and the dropped ones dim."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.optional import require
from ctxcomp.visual.layout import Page
from ctxcomp.visual.prompt import PrunedPrompt


def picture(pruned: PrunedPrompt, page: int, image: Any, *, dim: float = 0.25) -> Any:
    """A copy of a page's image as the language model gets it.

    Where crops and a thumbnail show the same place, it is as bright as its finest kept token makes it: a token of a
    crop counts in full, one of the thumbnail by half.

    Parameters
    ----------
    page: its number among all pages of the call, from 0.
    image: the ``PIL.Image`` that the processor was given.
    dim: brightness of what was dropped, in [0, 1].

    Raises
    ------
    InputError: there is no such page, or where its tiles lie is not known.
    """
    drawing = require("PIL.Image", extra="vision")
    if not 0 <= page < len(pruned.encoded.pages):
        raise InputError(f"there are pages 0 to {len(pruned.encoded.pages) - 1}, got {page}")
    if not 0 <= dim <= 1:
        raise InputError(f"dim must be in [0, 1], got {dim}")
    if not isinstance(image, drawing.Image):
        raise InputError(f"image must be a PIL.Image, got {type(image).__name__}")
    start = pruned.encoded.starts[page]
    layout = pruned.encoded.pages[page]
    mine = pruned.kept[(pruned.kept >= start) & (pruned.kept < start + len(layout))] - start
    light = brightness(layout, mine, image.height, image.width)
    shade = drawing.fromarray(((dim + (1 - dim) * light) * 255).round().byte().numpy(), mode=None)
    black = drawing.new("RGB", image.size)
    return drawing.composite(image.convert("RGB"), black, shade)


def brightness(page: Page, kept: Tensor, height: int, width: int) -> Tensor:
    """How much of each pixel is kept, float32 ``[height, width]`` in [0, 1]."""
    if torch.isnan(page.boxes[page.content]).any():
        raise InputError("where the tiles of this page lie is not known: prune with tiles=")
    light = torch.zeros(height, width)
    size = torch.tensor([height, width, height, width])
    for token in kept[~page.structural[kept]].tolist():
        top, left, bottom, right = (page.boxes[token] * size).round().long().tolist()
        level = 0.5 if int(page.crops[token]) == page.thumbnail else 1.0
        area = light[top : max(bottom, top + 1), left : max(right, left + 1)]
        area.clamp_(min=level)
    return light
