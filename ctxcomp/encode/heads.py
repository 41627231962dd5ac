"""A small trained head, and optionally LoRA deltas, for a frozen encoder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctxcomp.errors import ModelError
from ctxcomp.loading import Tensors, file_sha256, read_safetensors

WEIGHT, BIAS = "classifier.weight", "classifier.bias"
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """What a head file holds.

    Parameters
    ----------
    weight: float32 ``[labels, hidden]``.
    bias: float32 ``[labels]``.
    deltas: module path without the model prefix -> what to add to its weight, ``[out, in]``.
    sha256: hash of the file; "" for a head that is part of the checkpoint.
    names: of the outputs, where the file tells them.
    independent: whether each output is a probability of its own, by a sigmoid, or one of a softmax over all.
    """

    weight: Matrix
    bias: Matrix
    deltas: dict[str, Matrix]
    sha256: str = ""
    names: tuple[str, ...] = ()
    independent: bool = False


def read_head(path: Path) -> Head:
    """Read a head file: ``classifier.weight``, ``classifier.bias`` and pairs ``<module path>.lora_A``, ``.lora_B``.

    The delta of a module is ``lora_B @ lora_A * lora_scale``; ``lora_scale`` is in the metadata, 1 if absent. Module
    paths are those of the state dict, for example ``encoder.layer.0.attention.self.query``. ``labels`` in the metadata
    names the outputs, with commas between; ``activation`` is "softmax", as if absent, or "sigmoid".

    Raises
    ------
    ModelError: the file is missing or damaged, or its tensors do not fit together.
    """
    sha256 = head_sha256(path)
    tensors, metadata = read_safetensors(path)
    try:
        scale = float(metadata.get("lora_scale", "1"))
    except ValueError as error:
        raise ModelError(f"{path}: lora_scale must be a number, got {metadata['lora_scale']!r}") from error
    names = {key.rpartition(".")[0] for key in tensors if key.endswith((".lora_A", ".lora_B"))}
    expected = {WEIGHT, BIAS} | {f"{name}.lora_{side}" for name in names for side in "AB"}
    if expected != set(tensors):
        raise ModelError(
            f"{path}: tensors missing {sorted(expected - set(tensors))}, "
            f"unknown {sorted(set(tensors) - expected)}; allowed are {WEIGHT}, {BIAS} and pairs of "
            "<module path>.lora_A and .lora_B"
        )
    weight, bias = (np.asarray(tensors[key], dtype=np.float32) for key in (WEIGHT, BIAS))
    deltas = {}
    for name in sorted(names):
        a, b = (np.asarray(tensors[f"{name}.lora_{side}"], dtype=np.float32) for side in "AB")
        if a.ndim != 2 or b.ndim != 2 or b.shape[1] != a.shape[0]:
            raise ModelError(
                f"{path}: {name} has lora_A {a.shape} and lora_B {b.shape}; [rank, in] and [out, rank] fit"
            )
        deltas[name] = (b @ a * np.float32(scale)).astype(np.float32)
    labels = tuple(filter(None, metadata.get("labels", "").split(",")))
    if labels and len(labels) != len(weight):
        raise ModelError(f"{path}: {len(weight)} outputs, but {len(labels)} labels, {', '.join(labels)}")
    activation = metadata.get("activation", "softmax")
    if activation not in ("softmax", "sigmoid"):
        raise ModelError(f"{path}: activation must be softmax or sigmoid, got {activation!r}")
    return _checked(Head(weight, bias, deltas, sha256, labels, activation == "sigmoid"), str(path))


def head_sha256(path: Path) -> str:
    """Hash of a head file.

    Raises
    ------
    ModelError: there is no such file.
    """
    if not path.is_file():
        raise ModelError(f"no head file at {str(path)!r}: give 'none', 'token' or a safetensors file with {WEIGHT}")
    return file_sha256(path)


def checkpoint_head(tensors: Tensors, source: str) -> Head:
    """The token-classification head of a checkpoint.

    Raises
    ------
    ModelError: the checkpoint has none, or one that is more than a single linear layer.
    """
    if WEIGHT not in tensors or BIAS not in tensors:
        found = sorted(key for key in tensors if key.startswith("classifier"))
        raise ModelError(
            f"{source} has no token-classification head ({WEIGHT}, {BIAS}), found {found}: use "
            "head='none' or give a head file"
        )
    return _checked(Head(tensors[WEIGHT].astype(np.float32), tensors[BIAS].astype(np.float32), {}), source)


def _checked(head: Head, source: str) -> Head:
    if head.weight.ndim != 2 or head.bias.shape != head.weight.shape[:1]:
        raise ModelError(
            f"{source}: {WEIGHT} {head.weight.shape} and {BIAS} {head.bias.shape} do not fit together; "
            "[labels, hidden] and [labels] do"
        )
    return head


def merge(tensors: Tensors, head: Head, source: str) -> Tensors:
    """The tensors with the head's LoRA deltas added to the dense weights they name.

    Raises
    ------
    ModelError: a delta names a weight that is not there or has another shape.
    """
    deltas = normalise_modules(head.deltas, tensors)
    for name, delta in deltas.items():
        weight = tensors.get(f"{name}.weight")
        if weight is None or weight.shape != delta.shape:
            raise ModelError(
                f"the head's LoRA for {name!r} has shape {delta.shape}; {source} has "
                f"{'no such module' if weight is None else f'shape {weight.shape}'}"
            )
    return tensors | {f"{name}.weight": tensors[f"{name}.weight"] + delta for name, delta in deltas.items()}


def normalise_modules(deltas: dict[str, Matrix], names: Iterable[str]) -> dict[str, Matrix]:
    """Deltas by module path without a model prefix such as "bert."."""
    known = set(names)
    result = {}
    for name, delta in deltas.items():
        short = name.partition(".")[2]
        result[name if f"{name}.weight" in known or f"{short}.weight" not in known else short] = delta
    return result
