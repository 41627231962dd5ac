"""Heads of ours as checkpoints that llmlingua loads."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from safetensors.numpy import load_file, save_file

from ctxcomp.encode.heads import BIAS, WEIGHT, head_sha256, merge, read_head
from ctxcomp_eval.bench.llmlingua_checkpoints import minilm_checkpoint


def checkpoint(head: Path) -> Path:
    """MiniLM with a token head of ours as a ``BertForTokenClassification``; removed when the process ends.

    Raises
    ------
    ModelError: the head file is missing or damaged, or not for MiniLM.
    """
    return _checkpoint(head, head_sha256(head))


@functools.cache
def _checkpoint(head: Path, sha256: str) -> Path:
    trained = read_head(head)
    folder = tempfile.mkdtemp(prefix="ctxcomp-peer-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = minilm_checkpoint(Path(folder))  # its name makes llmlingua take the rules for WordPiece
    weights = {name.removeprefix("bert."): tensor for name, tensor in load_file(path / "model.safetensors").items()}
    merged = merge(weights, trained, "minilm") | {WEIGHT: trained.weight, BIAS: trained.bias}
    named = {name if name in (WEIGHT, BIAS) else f"bert.{name}": tensor for name, tensor in merged.items()}
    save_file(named, path / "model.safetensors", metadata={"format": "pt"})
    return path
