"""Seconds that the packer alone takes, by the number of units. Writes results/fit_speed.csv.

    python -m ctxcomp_eval.bench.fit_speed --units 1000,100000

Units are the words, or sentences, of Wikipedia passages; scores are random. Each call of `fit` has a counter whose
memory of counts is empty, so that counting every unit is part of it. `tokens_in_s` is rendering and counting the
whole input, which a compressor does once before; `segment_s` is what finding the units took.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from tqdm import tqdm

from ctxcomp.candidates import Candidates, candidates
from ctxcomp.counting import TokenCounter, resolve_counter
from ctxcomp.errors import BudgetError
from ctxcomp.fit import FitOptions, fit
from ctxcomp.render import render
from ctxcomp.segment import Level
from ctxcomp.types import Budget, Passage, Request
from ctxcomp_eval.bench.common import RESULTS, percentiles, wiki_texts, write_csv

KEEPS = (0.1, 0.5, 0.9)
SETTINGS: dict[str, dict[str, Any]] = {
    "global": {},
    "passage": {"allocate": "passage"},
    "floor": {"floor_tokens": 10},
    "cap": {"cap_tokens": 60},
    "protect": {"protect": ("digits",)},
    "elision": {"elision": "[…]"},
    "header": {"header": "[{id}] {title}\n"},
    "all": {"allocate": "passage", "per_token": True, "floor_tokens": 5, "cap_tokens": 110, "protect": ("quotes",),
            "elision": "[… {units} left out]", "header": "[{id}]\n"},
}  # fmt: skip
SHAPES = ("passages", "one passage")


def fresh_counter() -> TokenCounter:
    """o200k_base, remembering nothing."""
    return resolve_counter(tiktoken.get_encoding("o200k_base"))


def wiki_units(n: int, level: Level, shape: str) -> Candidates:
    """About ``n`` units (at least) of Wikipedia text, in its passages or all in one."""
    texts: list[str] = []
    found = 0
    for text in _endless():
        texts.append(text)
        found += len(text.split()) if level == "word" else max(text.count(". "), 1)
        if found >= n:
            break
    if shape == "one passage":
        texts = ["\n\n".join(texts)]
    return candidates(Request("", tuple(Passage(t, id=str(i)) for i, t in enumerate(texts)), Budget(keep=1)), level)


def _endless() -> Iterator[str]:
    while True:
        yield from wiki_texts()


def timed(call: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each of some calls, without those of the garbage collector."""
    seconds = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            began = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began)
    finally:
        gc.enable()
    return seconds


def measure(units: Candidates, budget: int, options: FitOptions, repeats: int) -> dict[str, Any]:
    """One row: seconds of `fit`, and tokens that it kept ("none" where protected text alone was over the budget)."""
    scores = np.random.default_rng(0).random(len(units))
    kept: list[int | str] = []

    def call() -> None:
        try:
            kept.append(fit(units, scores, budget, fresh_counter(), options).tokens)
        except BudgetError:
            kept.append("none")

    seconds = timed(call, repeats)
    return {"budget_tokens": budget, "tokens_out": kept[-1], **percentiles(seconds)}


def run(sizes: Sequence[int], levels: Sequence[Level], repeats: int) -> Iterator[dict[str, Any]]:
    for level in levels:
        for shape in SHAPES:
            for n in sizes:
                began = time.perf_counter()
                units = wiki_units(n, level, shape)
                segment_s = time.perf_counter() - began
                everything = np.ones(len(units), bool)
                began = time.perf_counter()
                tokens_in = fresh_counter().count(render(units, everything, FitOptions()).text)
                tokens_in_s = time.perf_counter() - began
                known = {"level": level, "shape": shape, "units": len(units), "tokens_in": tokens_in,
                         "segment_s": segment_s, "tokens_in_s": tokens_in_s}  # fmt: skip
                for name, fields in SETTINGS.items():
                    options = FitOptions(**fields)
                    for budget in [*(int(keep * tokens_in) for keep in KEEPS), 50]:
                        row = measure(units, budget, options, repeats)
                        yield {**known, "settings": name, "keep": round(budget / tokens_in, 4), **row}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--units", default="1000,10000,100000", help="comma-separated")
    parser.add_argument("--levels", default="word,sentence", help="comma-separated")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "fit_speed.csv")
    options = parser.parse_args(arguments)
    sizes = [int(text) for text in options.units.split(",")]
    rows = []
    for row in tqdm(run(sizes, options.levels.split(","), options.repeats), disable=None):
        rows.append(row)
        print("{level:8} {shape:11} {units:7} {settings:8} keep {keep:<6} {p50_s:.3f} s".format(**row), flush=True)
    write_csv(options.out, rows)


if __name__ == "__main__":
    main()
