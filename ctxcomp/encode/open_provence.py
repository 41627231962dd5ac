"""OpenProvence checkpoints: a reranker with a second head that says which tokens to keep.

Source: the published layout of github.com/hotchpotch/open_provence (MIT), read as facts. ``config.json`` has
model_type "open_provence", ``max_length`` and ``base_model_config``, the configuration of a sequence classifier. The
weights are that classifier's under ``ranking_model.`` and, as ``pruning_head.classifier``, a linear layer to
(drop, keep) on its last ``hidden_states``.

Those of ModernBERT were the states before the final norm until transformers 5, which returns the normed ones; a head
gets what it was trained on, which ``transformers_version`` in ``config.json`` tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxcomp.errors import ModelError
from ctxcomp.loading import Checkpoint, Tensors, position_offset, read_safetensors
from ctxcomp.optional import require

MODEL_TYPE = "open_provence"
DEFAULT_WINDOW = 512
"""Positions where ``config.json`` names no ``max_length``."""
BACKBONE, TOKEN_HEAD = "ranking_model.", "pruning_head."


@dataclass(frozen=True)
class TokenHead:
    """A linear layer over token states whose value is the keep logit.

    Parameters
    ----------
    weight: float32 ``[hidden]``.
    bias: added to the product.
    before_norm: it reads the states before the backbone's final norm.
    """

    weight: NDArray[np.float32]
    bias: float
    before_norm: bool


def window(checkpoint: Checkpoint) -> int:
    """Positions of a sequence with its specials."""
    base = _base_config(checkpoint)
    size = int(checkpoint.config.get("max_length") or DEFAULT_WINDOW)
    positions = base.get("max_position_embeddings")
    return size if positions is None else min(size, int(positions) - position_offset(base))


def load(checkpoint: Checkpoint) -> tuple[Any, TokenHead]:
    """The backbone, a transformers sequence classifier in float32, and the token head.

    Raises
    ------
    ModelError: weights and ``config.json`` do not fit together.
    """
    torch = require("torch", extra="models")
    transformers = require("transformers", extra="models")
    tensors: Tensors = {}
    for file in checkpoint.weight_files:
        if file.suffix != ".safetensors":
            raise ModelError(f"{file}: an OpenProvence checkpoint has its weights in model.safetensors")
        tensors |= read_safetensors(file)[0]
    base = _base_config(checkpoint)
    options = {name: value for name, value in base.items() if name not in ("model_type", "dtype", "torch_dtype")}
    options |= {"num_labels": int(checkpoint.config.get("num_labels") or 1)}
    try:
        config = transformers.AutoConfig.for_model(base["model_type"], **options)
        with torch.random.fork_rng(devices=[]):
            model = transformers.AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        weights = {
            name.removeprefix(BACKBONE): torch.from_numpy(np.require(tensor, requirements="W"))
            for name, tensor in tensors.items()
            if not name.startswith(TOKEN_HEAD)
        }
        report = model.load_state_dict(weights, strict=False)
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ModelError(f"{checkpoint.path}: its base_model_config and weights do not fit: {error}") from error
    wrong = [name for name in (*report.missing_keys, *report.unexpected_keys) if not name.endswith("position_ids")]
    if wrong:
        raise ModelError(f"{checkpoint.path} does not fit its base_model_config: missing or unknown are {wrong[:4]}")
    return model, _token_head(checkpoint, tensors, base)


def _base_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    base = checkpoint.config.get("base_model_config")
    if not isinstance(base, dict) or "model_type" not in base:
        raise ModelError(f"{checkpoint.path / 'config.json'} has no base_model_config with a model_type")
    return base


def _token_head(checkpoint: Checkpoint, tensors: Tensors, base: Mapping[str, Any]) -> TokenHead:
    weight, bias = (tensors.get(f"{TOKEN_HEAD}classifier.{part}") for part in ("weight", "bias"))
    if weight is None or bias is None or weight.shape != (2, base.get("hidden_size")) or bias.shape != (2,):
        found = {name: tensor.shape for name, tensor in tensors.items() if name.startswith(TOKEN_HEAD)}
        raise ModelError(
            f"{checkpoint.path} has the token head {found}: {TOKEN_HEAD}classifier.weight of shape "
            f"[2, {base.get('hidden_size')}] and .bias of shape [2] are needed"
        )
    major = str(checkpoint.config.get("transformers_version", "4")).partition(".")[0]
    before_norm = base["model_type"] == "modernbert" and not (major.isdigit() and int(major) >= 5)
    weight, bias = weight.astype(np.float32), bias.astype(np.float32)
    return TokenHead(weight[1] - weight[0], float(bias[1] - bias[0]), before_norm)
