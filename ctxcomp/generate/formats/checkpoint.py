"""Save a quantized model, and load one that we or another package saved."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxcomp.errors import InputError, ModelError
from ctxcomp.generate.formats import hf
from ctxcomp.generate.formats.packed import is_compressed
from ctxcomp.generate.formats.registry import METHOD, read_format
from ctxcomp.loading import open_checkpoint, pick_device
from ctxcomp.optional import require

if TYPE_CHECKING:
    import torch


def save_quantized(model: Any, tokenizer: Any, out: str | Path, *, format: str = "native") -> None:
    """Write a model with quantized layers as a checkpoint directory.

    Parameters
    ----------
    model: a causal language model that `quantize` or `load_quantized` made.
    tokenizer: written beside it; None for none.
    out: the directory.
    format: "native" holds everything; "compressed-tensors" (vLLM, transformers), "awq" (GEMM), "gptq" (version 1)
        and "gptq_v2" hold plain codes, scales and zero points, all but "compressed-tensors" with float16 scales.

    Raises
    ------
    InputError: no layer is quantized, or the format cannot hold one.
    UnknownMethodError: there is no such format.
    """
    if not is_compressed(model):
        raise InputError("no layer of the model is quantized: call quantize(model, ...) first")
    hf.attach(model, format)
    model.save_pretrained(out)
    if tokenizer is not None:
        tokenizer.save_pretrained(out)


def quantized_config(path: str | Path) -> Any:
    """The configuration of a quantized checkpoint, for ``from_pretrained(path, config=...)`` of transformers.

    Raises
    ------
    ModelError: there is no checkpoint, it is not quantized, or in a way that we do not read.
    """
    transformers = require("transformers", extra="generate")
    hf.install()
    directory = open_checkpoint(path).path
    config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    settings = getattr(config, "quantization_config", None) or getattr(config, "compression_config", None)
    if not isinstance(settings, dict):
        raise ModelError(f"{directory / 'config.json'} has no quantization_config: the model is not quantized")
    read_format(settings)
    if settings["quant_method"] != METHOD:
        config.quantization_config = {"quant_method": METHOD, "source": settings}
    return config


def load_quantized(path: str | Path, *, device: str = "auto", dtype: torch.dtype | str | None = None) -> Any:
    """Load a quantized causal language model; its layers stay packed.

    Parameters
    ----------
    path: a directory, or a hub id in the local cache, in one of our formats; config.json says which.
    device: "auto", "cpu", "cuda", "cuda:N" or "mps".
    dtype: of what is not quantized, and of activations; None: as config.json says.

    Raises
    ------
    ModelError: there is no checkpoint, it is damaged, or quantized in a way that we do not read.
    """
    transformers = require("transformers", extra="generate")
    config = quantized_config(path)
    place = pick_device(device)
    directory = open_checkpoint(path).path
    direct = place != "cpu" and find_spec("accelerate") is not None
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        directory,
        config=config,
        dtype="auto" if dtype is None else dtype,
        device_map={"": place} if direct else None,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        raise ModelError(
            f"{directory} does not hold the whole model: missing {missing[:5]}, "
            f"of another shape {sorted(report['mismatched_keys'])[:5]}"
        )
    return model if direct or place == "cpu" else model.to(place)
