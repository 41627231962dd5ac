"""Checkpoints of quantized models: compressed-tensors, AWQ, GPTQ and our own, read and written.

Names are imported when they are first used: importing this package brings neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxcomp.optional import lazily

if TYPE_CHECKING:
    from ctxcomp.generate.formats.checkpoint import load_quantized, quantized_config, save_quantized
    from ctxcomp.generate.formats.hf import CtxcompConfig, install

__all__ = ["CtxcompConfig", "install", "load_quantized", "quantized_config", "save_quantized"]

_HOMES = {
    "CtxcompConfig": "hf",
    "install": "hf",
    "load_quantized": "checkpoint",
    "quantized_config": "checkpoint",
    "save_quantized": "checkpoint",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
