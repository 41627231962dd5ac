"""How many model calls speculative copying saves, and that its answers are the same. Writes results/generator_copy.csv.

    python -m ctxcomp_eval.generator.copying --model runs/lm/model

Held-out questions whose answers quote the context, decoded greedily; ``documents`` drafts also from passages that the
compressed context, `sentence_pruner` at keep .5, does not hold. A call is a forward pass, the prompt's included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctxcomp import Budget, Passage, load
from ctxcomp.generate import Generator
from ctxcomp_eval.bench.common import RESULTS, write_csv
from ctxcomp_eval.generator.measure import exchanges, interval

PACKAGES = ("ctxcomp", "torch", "transformers")


def answers(generator: Generator, prompts: Sequence[tuple[str, Any]], copy: bool) -> tuple[list[Any], float]:
    """Every answer, and the seconds of all."""
    started = time.perf_counter()
    found = [
        generator.generate(query, context, copy=copy, max_tokens=96) for query, context in tqdm(prompts, leave=False)
    ]
    return found, time.perf_counter() - started


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows: the KV policy and the context, plain against copying."""
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    asked = exchanges("quote", options.prompts, 400, seed=1)
    pruner = load()
    passages = [[Passage(text) for text in one.context.split("\n\n")] for one in asked]
    pruned = [
        (one.question, pruner.compress(one.question, own, Budget(keep=0.5)))
        for one, own in zip(asked, passages, strict=True)
    ]
    whole = [(one.question, one.context) for one in asked]
    reference: dict[str, list[Any]] = {}
    for kv in (None, *options.kv):
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype))
        generator = Generator(model, tokenizer, kv=kv)
        for name, prompts in (("whole", whole), ("sentence_pruner, keep 0.5", pruned)):
            plain, plain_seconds = answers(generator, prompts, copy=False)
            copied, copy_seconds = answers(generator, prompts, copy=True)
            reference.setdefault(name, plain)
            calls = [np.array([one.usage.model_calls for one in some], float) for some in (plain, copied)]
            fewer = interval(np.log(calls[0] / calls[1]), np.exp)
            yield {
                "kv": kv or "whole",
                "context": name,
                "prompts": len(prompts),
                "copy_equals_plain": sum(a.tokens == b.tokens for a, b in zip(plain, copied, strict=True)),
                "plain_equals_whole_cache": sum(
                    a.tokens == b.tokens for a, b in zip(plain, reference[name], strict=True)
                ),
                "tokens": float(np.mean([len(one.tokens) for one in plain])),
                "calls_plain": calls[0].mean(),
                "calls_copy": calls[1].mean(),
                "fewer_calls": calls[0].sum() / calls[1].sum(),
                "fewer_low": fewer.low,
                "fewer_high": fewer.high,
                "seconds_plain": plain_seconds / len(prompts),
                "seconds_copy": copy_seconds / len(prompts),
            }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="runs/lm/model", help="a causal language model of transformers")
    parser.add_argument("--prompts", type=int, default=120)
    parser.add_argument("--kv", nargs="*", default=["int8", "kivi4", "snapkv(keep=0.5)+kivi4"], metavar="POLICY")
    parser.add_argument("--dtype", default="float32", help="in bfloat16 near-ties fall differently in longer forwards")
    parser.add_argument("--out", type=Path, default=RESULTS / "generator_copy.csv")
    options = parser.parse_args(arguments)
    rows = []
    for line in measure(options):
        rows.append(line)
        print({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in line.items()}, flush=True)
        write_csv(options.out, rows, PACKAGES)


if __name__ == "__main__":
    main()
