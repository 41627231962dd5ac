"""Models and tokenizers from disk: plain checkpoints, quantized ones, and weights quantized on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctxcomp.errors import InputError, ModelError
from ctxcomp.loading import pick_device, resolve
from ctxcomp.optional import require


def load_model(path: Path, *, dtype: Any = None, device: str = "auto") -> Any:
    """A causal language model in evaluation mode on its device; quantized checkpoints keep their small weights.

    Parameters
    ----------
    path: a checkpoint directory.
    dtype: of what is not quantized, a torch dtype or its name; None takes the checkpoint's own.
    device: "auto" is "cuda" where there is one, else "cpu".

    Raises
    ------
    ModelError: there is no causal language model, or it is damaged.
    """
    transformers = require("transformers", extra="generate")
    place, kind = pick_device(device), torch_dtype(dtype)
    try:
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        if getattr(config, "quantization_config", None) is not None:
            from ctxcomp.generate.formats import load_quantized

            return load_quantized(path, device=device, dtype=kind).eval()
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=kind or "auto", local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path} cannot be loaded as a causal language model: {error}") from error
    return model.to(place).eval()


def load_tokenizer(path: Path) -> Any:
    """The checkpoint's tokenizer.

    Raises
    ------
    ModelError: there is none.
    """
    transformers = require("transformers", extra="generate")
    try:
        return transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} holds no tokenizer that can be loaded: {error}") from error


def find(model: str | Path, *, revision: str | None = None, allow_download: bool = False) -> Path:
    """The local directory of a path or hub id; parameters and errors as for ``ctxcomp.loading.resolve``."""
    return resolve(model, revision=revision, allow_download=allow_download)


def quantize_weights(
    model: Any, tokenizer: Any, method: str, calibration: Sequence[str] | None, options: dict[str, Any]
) -> None:
    """Quantize a loaded model in place; see ``ctxcomp.generate.quantize``."""
    from ctxcomp.generate.weights import quantize

    quantize(model, method, calibration, tokenizer=tokenizer, **options)


def torch_dtype(name: Any) -> Any:
    """A torch dtype by name; None and dtypes stay as they are."""
    torch = require("torch", extra="generate")
    if name is None or isinstance(name, torch.dtype):
        return name
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise InputError(f"dtype must be a torch dtype such as 'bfloat16', got {name!r}")
    return found
