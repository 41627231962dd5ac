"""What a stored key-value cache is bound to: the model that made it, and the tokenizer that cut the text."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

SAMPLED = 1024
"""Elements read of each weight, evenly spread: a model of 8 billion parameters takes a second instead of a minute."""


def of_model(model: Any) -> str:
    """A hash of the configuration and of a sample of every weight and buffer.

    Two models that share the hash have the same architecture and agree in every sampled value; training or quantizing
    a model changes nearly all values of a weight, so it changes the hash.
    """
    config = {k: v for k, v in model.config.to_dict().items() if not k.startswith("_") and k != "transformers_version"}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    with torch.no_grad():
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            flat = tensor.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // SAMPLED)].contiguous().cpu()
            digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def of_tokenizer(tokenizer: Any) -> str:
    """A hash of all that decides how text becomes ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    whole = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()
