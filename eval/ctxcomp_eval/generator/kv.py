"""What compressed KV caches save and cost, on the small trained model. Writes results/generator_kv.csv.

    python -m ctxcomp_eval.generator.kv --model runs/lm/model

Per policy: bytes really held after a text of 2,048 and of 4,096 tokens, as a share of a bfloat16 cache; the loss on
256 tokens behind 1,792 that are in the cache, of the held-out split, paired window by window with the whole cache. With
``--needles`` also how many codes are found again in about 1,200 tokens, with ``--answers`` the F1 of answers to
held-out questions, both greedy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctxcomp.generate import Generator
from ctxcomp_eval.answers import f1
from ctxcomp_eval.bench.common import RESULTS, write_csv
from ctxcomp_eval.generator.measure import Losses, exchanges, interval
from ctxcomp_eval.generator.weights import texts
from ctxcomp_eval.lm.documents import Exchange

PACKAGES = ("ctxcomp", "torch", "transformers")
PREFIX, CHUNK = 1792, 32
"""Tokens that are in the cache when the loss is measured; tokens of one forward behind them."""
POLICIES = (
    "int8",
    "kivi8",
    "int4",
    "kivi4",
    "kivi2",
    "zipcache",
    "gear",
    "mustafar(keep=0.5)",
    "demote",
    "streaming(keep=0.25)",
    "random(keep=0.25)",
    "knorm(keep=0.25)",
    "h2o(keep=0.25)",
    "scissorhands(keep=0.25)",
    "snapkv(keep=0.25)",
    "expected_attention(keep=0.25)",
    "ems(keep=0.25)",
    "snapkv(keep=0.75)+kivi4",
    "expected_attention(keep=0.75)+kivi4",
    "ems(keep=0.75)+kivi4",
)
"""Those with keep .75 and 4 bits take fewer bytes than those with keep .25 and 16 bits."""


@torch.inference_mode()
def continued(generator: Generator, ids: Tensor, batch: int = 4) -> Losses:
    """The loss of each window behind its first PREFIX tokens, which are read as one prompt."""
    found = []
    for part in tqdm(torch.split(ids, batch), desc="loss", leave=False, mininterval=2):
        cache = generator.new_cache()
        logits = [generator.model(part[:, :PREFIX], past_key_values=cache, logits_to_keep=1).logits]
        for chunk in torch.split(part[:, PREFIX:-1], CHUNK, dim=1):
            logits.append(generator.model(chunk, past_key_values=cache).logits)
        scores = torch.cat(logits, 1).float().transpose(1, 2)
        found.append(functional.cross_entropy(scores, part[:, PREFIX:], reduction="none").mean(1))
    return torch.cat(found).double().numpy()


@torch.inference_mode()
def share_of_bytes(generator: Generator, ids: Tensor) -> float:
    """Bytes of the cache behind a text ``[1, n]`` / bytes of its keys and values in bfloat16."""
    config = generator.model.config
    cache = generator.new_cache()
    generator.model(ids, past_key_values=cache, logits_to_keep=1)
    whole = 2 * 2 * ids.shape[1] * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return float(cache.nbytes() / whole)


def answered(generator: Generator, asked: Sequence[Exchange], right: Callable[[str, str], float]) -> Losses:
    """How right each greedy answer is."""
    said = [generator.generate(one.question, one.context, max_tokens=64).text for one in tqdm(asked, leave=False)]
    return np.array([right(text, one.answer) for text, one in zip(said, asked, strict=True)])


def has_code(text: str, answer: str) -> float:
    """1 where the code of ``answer`` is in the text."""
    return float(answer.split()[-1].rstrip(".") in text)


def last_answer(text: str, answer: str) -> float:
    """F1 of what stands behind "The answer is"."""
    name = "The answer is"
    return f1(text.rpartition(name)[2], [answer.rpartition(name)[2]]) if name in text else 0.0


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each policy, the whole cache first."""
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    ids = texts(tokenizer, "dev", options.windows, 2048)
    asked = {"needle": (exchanges("needle", options.needles, 900), has_code)}
    asked |= {"answer_f1": (exchanges("quote", options.answers, 700), last_answer)}
    whole: dict[str, Losses] = {}
    for policy in (None, *(options.only or POLICIES)):
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16)
        generator = Generator(model, tokenizer, kv=policy)
        found = {"loss": continued(generator, ids)}
        found |= {name: answered(generator, some, right) for name, (some, right) in asked.items() if some}
        whole = whole or found
        line: dict[str, Any] = {"policy": policy or "whole"}
        for count in (2048, 4096):
            line[f"bytes_{count}"] = share_of_bytes(generator, ids.flatten()[None, :count]) if policy else 1.0
        line["perplexity"] = float(np.exp(found["loss"].mean()))
        change = interval(found["loss"] - whole["loss"], np.expm1)
        line |= {"perplexity_rise": change.mean, "rise_low": change.low, "rise_high": change.high}
        for name in asked.keys() & found.keys():
            spread = interval(found[name] - whole[name])
            line |= {name: float(found[name].mean()), f"{name}_minus_whole": spread.mean}
            line |= {f"{name}_low": spread.low, f"{name}_high": spread.high}
        yield line


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="runs/lm/model", help="a causal language model of transformers")
    parser.add_argument("--windows", type=int, default=24, help="of 2,048 tokens")
    parser.add_argument("--needles", type=int, default=0, metavar="N", help="prompts that ask for a code")
    parser.add_argument("--answers", type=int, default=0, metavar="N", help="prompts that ask for a quotation")
    parser.add_argument("--only", nargs="+", metavar="POLICY", help="these policies instead of all")
    parser.add_argument("--out", type=Path, default=RESULTS / "generator_kv.csv")
    options = parser.parse_args(arguments)
    rows = []
    for line in measure(options):
        rows.append(line)
        print({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in line.items()}, flush=True)
        write_csv(options.out, rows, PACKAGES)


if __name__ == "__main__":
    main()
