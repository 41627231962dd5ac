"""llm-compressor's AWQ on a model and calibration windows of ours: the peer that `awq` is measured against.

Run by the Python of an environment of its own that holds llmcompressor (0.14 was used) and no ctxcomp:
    python peer_awq.py MODEL IDS.npy OUT [--bits 4] [--group-size 128] [--duo-scaling both] [--method awq]
IDS.npy holds token ids [windows, tokens]. OUT becomes a compressed-tensors checkpoint, for `load_quantized`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np


def recipe(method: str, bits: int, group_size: int, duo_scaling: Any) -> list[Any]:
    """What llm-compressor is to do: its AWQ, its GPTQ or rounding to nearest, asymmetric, on all but the head."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    weights = QuantizationArgs(num_bits=bits, symmetric=False, strategy="group", group_size=group_size)
    groups = {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}
    if method == "gptq":
        return [GPTQModifier(config_groups=groups, ignore=["lm_head"])]
    rounding = QuantizationModifier(config_groups=groups, ignore=["lm_head"])
    return [AWQModifier(duo_scaling=duo_scaling), rounding] if method == "awq" else [rounding]


def main() -> None:
    """Quantize and save."""
    parser = argparse.ArgumentParser(description="AWQ by llm-compressor")
    parser.add_argument("model", type=Path)
    parser.add_argument("ids", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--duo-scaling", choices=["true", "false", "both"], default="true")
    parser.add_argument("--method", choices=["awq", "gptq", "rtn"], default="awq")
    arguments = parser.parse_args()

    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.pipelines.cache import IntermediatesCache
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not torch.accelerator.is_available():  # 0.14 pins memory, for speed only, and fails where there is no GPU
        IntermediatesCache.pin_memory = lambda *_, **__: None
    ids = np.load(arguments.ids)
    windows = {"input_ids": ids.tolist(), "attention_mask": np.ones_like(ids).tolist()}
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype="auto")
    duo_scaling: Any = {"true": True, "false": False}.get(arguments.duo_scaling, "both")
    oneshot(
        model=model,
        dataset=Dataset.from_dict(windows),
        recipe=recipe(arguments.method, arguments.bits, arguments.group_size, duo_scaling),
        max_seq_length=ids.shape[1],
        num_calibration_samples=len(ids),
    )
    model.save_pretrained(arguments.out, save_compressed=True)
    AutoTokenizer.from_pretrained(arguments.model).save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
