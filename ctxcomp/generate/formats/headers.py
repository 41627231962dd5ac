"""What tensors a checkpoint holds, from the headers of its safetensors files alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ctxcomp.errors import ModelError

TORCH_DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "I8": torch.int8,
    "U8": torch.uint8,
}


@dataclass(frozen=True)
class Entry:
    """One tensor in a file: its dtype as safetensors names it, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    def empty(self) -> torch.Tensor:
        """A tensor like it on the meta device."""
        return torch.empty(self.shape, dtype=TORCH_DTYPES[self.dtype], device="meta")


def nothing_to_initialize() -> torch.Tensor:
    """A weight for layers without one: some models initialize the weights of layers by name, others than read ones."""
    weight = torch.empty(0)
    weight._is_hf_initialized = True  # type: ignore[attr-defined]  # the mark of transformers
    return weight


Layer = dict[str, Entry]
"""The tensors of one layer by the last part of their names."""


def read_layers(files: Iterable[str | Path], markers: Sequence[str]) -> dict[str, Layer]:
    """The layers that have a tensor named as one of ``markers``, with all their tensors.

    Raises
    ------
    ModelError: a file is no safetensors file, or is damaged.
    """
    layers: dict[str, Layer] = {}
    for file in files:
        for key, entry in _read_header(Path(file)).items():
            module, _, suffix = key.rpartition(".")
            layers.setdefault(module, {})[suffix] = entry
    return {name: layer for name, layer in layers.items() if any(marker in layer for marker in markers)}


def _read_header(path: Path) -> Layer:
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise ModelError(f"{path} is no safetensors file: quantized checkpoints are read from safetensors only")
    try:
        with safe_open(str(path), framework="numpy") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
            return {key: Entry(part.get_dtype(), tuple(part.get_shape())) for key, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or no safetensors file: {error}") from error
