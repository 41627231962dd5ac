"""Time to the first token with documents read once against reading them anew. Writes results/generator_documents.csv.

    python -m ctxcomp_eval.generator.documents --model runs/lm/model

Questions over ten held-out passages, which another generator has stored before. The time runs from the call to the
first token: reading the files, checking, decoding, turning and joining are in it. `same_tokens` is how many of the
first 16 greedy tokens are those over the whole prompt, up to the first that differs: documents that are read apart do
not see each other.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ctxcomp import Passage
from ctxcomp.generate import Generator
from ctxcomp.generate.documents import DocumentCache
from ctxcomp_eval.bench.common import RESULTS, percentiles, write_csv
from ctxcomp_eval.lm.documents import Sources

PACKAGES = ("ctxcomp", "torch", "transformers")
POLICIES = ("none", "kivi8", "kivi4", "expected_attention(keep=0.5)+kivi4")
PASSAGES = 10


def questions(count: int) -> list[tuple[str, list[Passage]]]:
    """Held-out questions with their passage among others."""
    sources, generator = Sources.of("dev"), random.Random(2)
    found = []
    for row in generator.sample(sources.questions, count):
        texts = [row["context"], *generator.sample(sources.wiki, PASSAGES - 1)]
        generator.shuffle(texts)
        found.append((row["question"], [Passage(text) for text in texts]))
    return found


def timed(ask: Any, asked: Sequence[tuple[str, list[Passage]]]) -> list[float]:
    """Seconds to the first token of every question."""
    seconds = []
    for query, passages in tqdm(asked, leave=False):
        started = time.perf_counter()
        ask(query, passages, max_tokens=1)
        seconds.append(time.perf_counter() - started)
    return seconds


def beginnings(ask: Any, asked: Sequence[tuple[str, list[Passage]]]) -> list[tuple[int, ...]]:
    """The first greedy tokens of every answer."""
    return [ask(query, passages, max_tokens=16).tokens for query, passages in asked]


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that two answers begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="runs/lm/model", help="a causal language model of transformers")
    parser.add_argument("--questions", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULTS / "generator_documents.csv")
    options = parser.parse_args(arguments)
    asked = questions(options.questions)
    generator = Generator.from_pretrained(options.model)
    timed(generator.generate, asked[:3])
    whole, seconds = beginnings(generator.generate, asked), timed(generator.generate, asked)
    passages = [passage for _, some in asked for passage in some]
    tokens = sum(len(generator.prompts.text_tokens(passage.text + "\n\n")) for passage in passages)
    config = generator.model.config
    token_bytes = 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    row: dict[str, Any] = {"policy": "read anew", "tokens": tokens / len(asked), "bytes_share": 0.0}
    rows = [row | {"same_tokens": float(np.mean([len(one) for one in whole]))} | percentiles(seconds)]
    for policy in POLICIES:
        with tempfile.TemporaryDirectory() as folder:
            DocumentCache(generator, folder, policy).add(passages)
            documents = DocumentCache(Generator.from_pretrained(options.model), folder, policy)
            spent = sum(documents.record(passage).nbytes() for passage in passages) / tokens / token_bytes
            seconds, found = timed(documents.generate, asked), beginnings(documents.generate, asked)
        same = float(np.mean([common(a, b) for a, b in zip(whole, found, strict=True)]))
        rows.append(row | {"policy": policy, "bytes_share": spent, "same_tokens": same} | percentiles(seconds))
        print(rows[-1], flush=True)
    write_csv(options.out, rows, PACKAGES)


if __name__ == "__main__":
    main()
