"""Trained weights on disk: safetensors that name what they belong to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ctxcomp.errors import ModelError
from ctxcomp.latent.networks import ProjectorNetwork, SlotsNetwork

FORMAT = "ctxcomp latent 1"
LAYER = re.compile(r"(?:^|\.)projector\.(\d+)\.(weight|bias)$")
Facts = dict[str, str]


def embedding_scale(model: Any) -> float:
    """Root mean square of a model's input embeddings: how large a vector among them should be."""
    return float(model.get_input_embeddings().weight.detach().float().square().mean().sqrt())


def save_projector(network: ProjectorNetwork, path: Path, retriever: str, generator: str) -> None:
    """Write a projector under the names of xRAG's checkpoints, with the retriever and generator it is for."""
    tensors = {f"projector.{name}": tensor for name, tensor in network.state_dict().items()}
    _save(tensors, path, {"method": "projector", "retriever": retriever, "generator": generator})


def load_projector(path: str | Path) -> tuple[ProjectorNetwork, Facts]:
    """A projector, and what it is for as far as the file says: ours do, published ones do not.

    Parameters
    ----------
    path: a safetensors file, or a folder of them such as a whole xRAG checkpoint, of which nothing else is read.

    Raises
    ------
    ModelError: there is no projector of linear layers with GELU between them.
    """
    place = Path(path)
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
    tensors: dict[str, Tensor] = {}
    facts: Facts = {}
    for file in files:
        found, facts = _read(file, LAYER)
        tensors |= found
    return projector_from(tensors, place), facts


def projector_from(state: Mapping[str, Tensor], where: str | Path = "the state dict") -> ProjectorNetwork:
    """A projector from the weights of a checkpoint, whatever else there is; float32.

    Raises
    ------
    ModelError: the layers are not all there, or do not fit together.
    """
    layers: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if match := LAYER.search(name):
            layers.setdefault(int(match[1]), {})[match[2]] = tensor.float()
    places = sorted(layers)
    if not places or places != list(range(0, 2 * len(places), 2)):
        raise ModelError(f"{where} holds no projector: layers projector.0, .2, ... are needed, found {places}")
    if any(layer.keys() != {"weight", "bias"} for layer in layers.values()):
        raise ModelError(f"{where}: each layer of the projector needs a weight and a bias")
    hidden, retriever = layers[0]["weight"].shape
    network = ProjectorNetwork(retriever, hidden, len(places))
    try:
        network.projector.load_state_dict({f"{i}.{k}": t for i, layer in layers.items() for k, t in layer.items()})
    except RuntimeError as error:
        raise ModelError(f"{where}: the projector's layers do not fit together: {error}") from error
    return network.eval()


def digest(network: nn.Module) -> str:
    """sha256 over the weights: what decides vectors that are kept."""
    found = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().float().contiguous().numpy().data)
    return found.hexdigest()


def stamp(path: str | Path) -> str:
    """Changes when a file or a folder's files do: the key under which loaded weights are remembered."""
    files = sorted(Path(path).rglob("*.safetensors")) if Path(path).is_dir() else [Path(path)]
    return repr([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()])


def save_slots(network: SlotsNetwork, tokenizer: Any, folder: Path, generator: str) -> None:
    """Write the small model as a checkpoint with its tokenizer, slots and projection beside it."""
    network.encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    own = {k: v for k, v in network.state_dict().items() if not k.startswith("encoder.")}
    _save(own, folder / "slots" / "slots.safetensors", {"method": "memory_slots", "generator": generator})


def load_slots(folder: str | Path, device: str = "cpu") -> tuple[SlotsNetwork, Any, Facts]:
    """The network, its tokenizer and what it is for.

    Raises
    ------
    ModelError: the folder holds no such model, or a damaged one.
    """
    from transformers import AutoModel

    from ctxcomp.generate.load import load_tokenizer

    place = Path(folder)
    own, facts = _read(place / "slots" / "slots.safetensors", re.compile(""))
    try:
        encoder = AutoModel.from_pretrained(place, local_files_only=True, trust_remote_code=False, dtype=torch.float32)
        slots, hidden = own["slots"], own["project.weight"].shape[0]
        network = SlotsNetwork(encoder, len(slots), hidden)
        network.load_state_dict(own, strict=False)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"{place} holds no memory slots that can be loaded: {error}") from error
    return network.to(device).eval(), load_tokenizer(place), facts


def _save(tensors: Mapping[str, Tensor], path: Path, facts: Facts) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, path, {"format": FORMAT, **facts})


def _read(path: Path, wanted: re.Pattern[str]) -> tuple[dict[str, Tensor], Facts]:
    """The wanted tensors of one file, and its facts; the others are not read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            names: Iterable[str] = [name for name in file.keys() if wanted.search(name)]  # noqa: SIM118
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing: give the weights that ctxcomp_eval.latent.train has written") from error
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or no safetensors file: {error}") from error
