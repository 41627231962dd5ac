"""Vectors belong to one generator: what it is called, how it is known again, and what can never be one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctxcomp.errors import InputError
from ctxcomp.generate.generator import Generator
from ctxcomp.types import CompressedLatents

ROWS = 1024
"""Rows of the embedding that the fingerprint reads, evenly spread."""
TEXT_METHODS = "sentence_pruner, token_pruner or bm25"


def generator_id(model: Any) -> str:
    """``name@fingerprint`` of a model: its shape, and a sample of its input embedding in bfloat16.

    So the same checkpoint is known again in another precision or with its layers quantized, whose vectors are good for
    it too; a model that was trained further has moved its embeddings, and is another one.
    """
    config = model.config.get_text_config(decoder=True)
    facts = (config.model_type, config.hidden_size, config.num_hidden_layers, config.vocab_size)
    weight = model.get_input_embeddings().weight.detach()
    sample = weight[:: max(1, len(weight) // ROWS)].to("cpu", torch.bfloat16).contiguous()
    found = hashlib.sha256(repr(facts).encode() + sample.view(torch.uint8).numpy().tobytes())
    return f"{Path(model.config.name_or_path).name or config.model_type}@{found.hexdigest()[:16]}"


def check_generator(made_for: str, generator: Generator) -> None:
    """Refuse vectors of another generator.

    Parameters
    ----------
    made_for: its ``generator_id``; names may differ, fingerprints may not.

    Raises
    ------
    InputError: names both.
    """
    mine = generator_id(generator.model)
    if made_for.rpartition("@")[2] != mine.rpartition("@")[2]:
        raise InputError(
            f"these vectors are for the generator {made_for or 'of no name'}, this one is {mine}: "
            "compress again with it, or load the model that they were made for"
        )


def check_latents(parts: Sequence[CompressedLatents], generator: Generator) -> None:
    """Refuse vectors that a generator cannot read.

    Raises
    ------
    InputError: they are for another generator, of another width, or not finite.
    """
    hidden = generator.model.get_input_embeddings().weight.shape[1]
    for part in parts:
        if part.vectors.ndim != 2 or part.vectors.shape[1] != hidden or len(part.sources) != len(part.vectors):
            raise InputError(
                f"CompressedLatents.vectors must be [n, {hidden}] with n sources, got {list(part.vectors.shape)} "
                f"and {len(part.sources)} sources"
            )
        if not np.isfinite(part.vectors).all():
            raise InputError("CompressedLatents.vectors must be finite: compress again")
        check_generator(part.generator, generator)


def local_generator(given: Any, method: str) -> Generator:
    """The generator that vectors are for: one that is there, or a checkpoint directory.

    Raises
    ------
    InputError: it is none, or takes text only, as every chat API does.
    ModelError: the directory holds no causal language model.
    """
    if isinstance(given, Generator):
        return given
    if isinstance(given, (str, Path)) and str(given) and Path(given).is_dir():
        return _loaded(str(given))
    if hasattr(given, "get_input_embeddings"):
        raise InputError(f"{method} needs the model's tokenizer too: give generator=Generator(model, tokenizer)")
    what = repr(given) if isinstance(given, (str, Path)) else type(given).__name__
    raise InputError(
        f"{method} makes vectors that stand in a local model's input, not text, and needs generator= "
        f"a ctxcomp.generate.Generator or a checkpoint directory, got {what if given else 'none'}. Chat APIs take "
        f"text only: use {TEXT_METHODS} for them"
    )


@lru_cache(maxsize=2)
def _loaded(path: str) -> Generator:
    return Generator.from_pretrained(path)
