"""What quantized weights cost in perplexity, on the small trained model. Writes results/generator_weights.csv.

    python -m ctxcomp_eval.generator.weights --model runs/lm/model

Perplexity on windows of the held-out split: passages, books and questions as in training, none of them seen. Beside it
stands WikiText-2 test, whose "<unk>" and "@-@" the model never met: there noise may even lower the loss of a model that
is too sure of itself. Calibration is 48 windows of 512 tokens of the training split. Every row is paired window by
window with the original and with round-to-nearest at the same bits. `gap_closed` is the share of round-to-nearest's
loss increase that a method takes back; `bits_spent` counts every stored bit of the quantized layers.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctxcomp.generate.weights.linear import QuantizedLinear
from ctxcomp.generate.weights.quantize import quantize
from ctxcomp_eval.bench.common import RESULTS, write_csv
from ctxcomp_eval.data import data_dir
from ctxcomp_eval.generator.measure import Interval, Losses, closed, interval, losses, windows
from ctxcomp_eval.lm.documents import Sources
from ctxcomp_eval.lm.train import windows as training_windows

PACKAGES = ("ctxcomp", "torch", "transformers")


@dataclass(frozen=True)
class Setting:
    """One way to quantize."""

    method: str
    bits: int
    eora_rank: int = 0
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The method with what is changed of it."""
        extra = "".join(f", {key}={value}" for key, value in self.fields.items())
        return self.method + (f" + eora({self.eora_rank})" if self.eora_rank else "") + extra


SETTINGS = (
    *(Setting(method, 4) for method in ("rtn", "gptq", "awq")),
    Setting("spqr", 4),
    *(Setting(method, 4, eora_rank=16) for method in ("rtn", "gptq")),
    *(Setting(method, 3) for method in ("rtn", "gptq", "slim", "awq")),
    Setting("spqr", 3),
    Setting("gptq", 3, eora_rank=16),
    Setting("smoothquant+", 4),
    *(Setting(method, 2) for method in ("rtn", "gptq")),
)


def texts(tokenizer: Any, split: str, count: int, length: int) -> Tensor:
    """Token ids ``[count, length]`` of a split, as the training mixes it."""
    stream = training_windows(tokenizer, Sources.of(split), 7_000_000, length)
    return torch.stack([ids[:length] for ids, _ in itertools.islice(stream, count)])


def bits_spent(model: nn.Module) -> float:
    """Stored bits per weight of the quantized layers."""
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    stored = sum(layer.to_weight().nbytes() for layer in layers)
    return 8 * stored / sum(math.prod(layer.to_weight().shape) for layer in layers)


def row(name: str, bits: float, spent: float, found: Losses, original: Losses, rtn: Losses | None) -> dict[str, Any]:
    """One line of the table."""
    columns: dict[str, Any] = {"method": name, "bits": bits, "bits_spent": spent}
    columns |= _columns("perplexity", interval(found, np.exp))
    columns |= _columns("loss_minus_original", interval(found - original))
    columns |= _columns("loss_minus_rtn", interval(found - rtn) if rtn is not None else None)
    return columns | _columns("gap_closed", closed(rtn, found, original) if rtn is not None else None)


def _columns(name: str, found: Interval | None) -> dict[str, Any]:
    values = (found.mean, found.low, found.high) if found else ("", "", "")
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def measure(
    model: Any, tokenizer: Any, held_out: Tensor, wikitext: Tensor, chosen: Sequence[Setting]
) -> Iterator[dict[str, Any]]:
    """A row for the original, then one for each setting."""
    calibration = texts(tokenizer, "train", 48, 512)
    original, elsewhere = losses(model, held_out), losses(model, wikitext)
    line = row("original", 16, 16.0, original, original, None)
    yield line | {"wikitext2": float(np.exp(elsewhere.mean())), "seconds": 0.0}
    rtn: dict[int, Losses] = {}
    for setting in chosen:
        changed, started = copy.deepcopy(model), time.perf_counter()
        quantize(changed, setting.method, calibration, bits=setting.bits, eora_rank=setting.eora_rank, **setting.fields)
        seconds, found = time.perf_counter() - started, losses(changed, held_out)
        if setting.name == "rtn":
            rtn[setting.bits] = found
        base = None if setting.name == "rtn" else rtn.get(setting.bits)
        line = row(setting.name, setting.bits, bits_spent(changed), found, original, base)
        yield line | {"wikitext2": float(np.exp(losses(changed, wikitext).mean())), "seconds": seconds}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="runs/lm/model", help="a causal language model of transformers")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a window")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--only", help="methods, separated by commas; round-to-nearest is added")
    parser.add_argument("--out", type=Path, default=RESULTS / "generator_weights.csv")
    options = parser.parse_args(arguments)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    wanted = {"rtn", *options.only.split(",")} if options.only else {setting.method for setting in SETTINGS}
    rows = []
    held_out = texts(tokenizer, "dev", options.windows, options.length)
    wikitext = windows(tokenizer, data_dir() / "eval" / "wikitext2_test.txt", options.length, options.windows // 2)
    chosen = [setting for setting in SETTINGS if setting.method in wanted]
    for line in measure(model, tokenizer, held_out, wikitext, chosen):
        rows.append(line)
        told = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in line.items()}
        print(
            *(told[key] for key in ("method", "bits", "bits_spent", "perplexity", "gap_closed", "wikitext2")),
            flush=True,
        )
        write_csv(options.out, rows, PACKAGES)


if __name__ == "__main__":
    main()
