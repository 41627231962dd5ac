"""Documents' caches on disk: one safetensors file each, checked whole before anything of it is used."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ctxcomp.errors import CacheError

FORMAT = "ctxcomp document cache 1"


def digest(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """sha256 over names, shapes, types and bytes of all tensors, and over the facts beside them."""
    found = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """Write a file in one step: a reader, or an interruption, never sees half of it.

    Raises
    ------
    CacheError: the folder cannot be written.
    """
    from safetensors.torch import save

    facts = {"format": FORMAT, **facts}
    content = save(
        {name: t.contiguous().cpu() for name, t in tensors.items()}, {**facts, "sha256": digest(tensors, facts)}
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError:
            Path(part).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CacheError(f"{path} cannot be written: {error}") from error


def read(path: Path, expected: Mapping[str, str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and facts of a file.

    Parameters
    ----------
    expected: facts that it must have, word for word: the model, the tokenizer, the recipe.

    Raises
    ------
    CacheError: it is missing, damaged in any byte that is used, or made by another model, tokenizer or recipe.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            facts = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CacheError(f"{path} is not there") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CacheError(f"{path} is damaged or no document cache: {error}") from error
    stated = facts.pop("sha256", "")
    if facts.get("format") != FORMAT or digest(tensors, facts) != stated:
        raise CacheError(f"{path} is damaged: its content does not have the checksum that it states")
    for name, value in expected.items():
        if facts.get(name) != value:
            raise CacheError(f"{path} was made with another {name} ({facts.get(name, '')[:12]}, now {value[:12]})")
    return tensors, facts
