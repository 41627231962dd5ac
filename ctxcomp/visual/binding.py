"""Visual tokens belong to one model: its tower and projector made them, its language model reads them."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from ctxcomp.errors import InputError
from ctxcomp.latent.binding import generator_id
from ctxcomp.types import CompressedVision
from ctxcomp.visual.adapters import adapter_for

SAMPLE = 64
"""Values that are read of each weight, evenly spread."""


def seeing_id(model: Any) -> str:
    """``name@fingerprint`` of a vision-language model: its language model's, and a sample of all that is before it.

    In bfloat16, so that the same checkpoint is known again in another precision.
    """
    name, _, own = generator_id(model).partition("@")
    digest = hashlib.sha256(own.encode())
    language = {id(weight) for weight in adapter_for(model).language.parameters()}
    for weight in model.model.parameters():
        if id(weight) not in language:
            flat = weight.detach().flatten()
            sample = flat[:: max(1, len(flat) // SAMPLE)].to("cpu", torch.bfloat16).contiguous()
            digest.update(sample.view(torch.uint8).numpy().tobytes())
    return f"{name}@{digest.hexdigest()[:16]}"


def check_pages(part: CompressedVision, model: Any) -> None:
    """Refuse pages that a model cannot read.

    Raises
    ------
    InputError: they are for another model, or part of a prompt of the caller's own.
    """
    if not part.sizes or not part.generator:
        raise InputError(
            "these pages were pruned within a prompt of your own, and its PrunedPrompt.generate() answers it: for "
            "Generator.generate make them with VisualPruner(model=generator).compress(query, pages, budget)"
        )
    fits = len(part.features) == len(part.indices) and len(part.sizes) == len(part.tokens_in)
    if not fits or not torch.isfinite(part.features).all():
        raise InputError("CompressedVision.features must be finite, [n, hidden] for n indices: compress again")
    mine = seeing_id(model)
    if part.generator.rpartition("@")[2] != mine.rpartition("@")[2]:
        raise InputError(
            f"these pages are for the model {part.generator}, this one is {mine}: compress them again with it, or load "
            "the model that they were made for"
        )
