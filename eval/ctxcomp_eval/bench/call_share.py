"""Which share of a `compress` call the encoder takes. Writes results/call_share.csv.

    python -m ctxcomp_eval.bench.call_share

Each call has 20 Wikipedia passages that no call before had, so nothing is remembered but what users' calls would
share too: tokens of common words. `backend` is the forward passes, `tokenise` the encoder's tokenizer; `segment`,
`score_rest`, `fit` and `rest` (mostly counting the input) are ours. Shares are of the time of all calls.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from tqdm import tqdm

from ctxcomp import compressor, load
from ctxcomp.encode.encoder import Encoder
from ctxcomp.text.embedding_select import EmbeddingSelect
from ctxcomp.text.sentence_pruner import SentencePruner
from ctxcomp.text.token_pruner import TokenPruner
from ctxcomp.types import Budget, Passage
from ctxcomp_eval import data
from ctxcomp_eval.bench.common import RESULTS, percentiles, wiki_passages, write_csv

Method = EmbeddingSelect | SentencePruner | TokenPruner
SETTINGS: dict[str, dict[str, Any]] = {
    "embedding_select": {},
    "embedding_select words": {"unit": "word"},
    "sentence_pruner": {},
    "sentence_pruner 8 read": {"cross_passages": 8},
    "token_pruner": {},
    "token_pruner elided": {"elision": "[…]", "header": "[{id}]\n"},
}
PASSAGES = 20


class Clock:
    """Seconds by name, summed up over calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

        return timed


@contextmanager
def timed_parts(method: Method, clock: Clock) -> Iterator[None]:
    """Time the parts of every call of ``method`` inside this context."""
    backend = type(method.load_encoder().backend)
    parts: list[tuple[str, Any, str]] = [
        ("backend", backend, "run"),
        ("tokenise", Encoder, "tokenize"),
        ("score", type(method), "score"),
        ("segment", compressor, "candidates"),
        ("fit", compressor, "fit"),
    ]
    with ExitStack() as stack:
        for name, owner, attribute in parts:
            stack.enter_context(patch.object(owner, attribute, clock.around(name, getattr(owner, attribute))))
        yield


def measure(name: str, passages: Sequence[Passage], questions: Sequence[str], keep: float) -> dict[str, Any]:
    """One row: a call for each question, after two that warm up."""
    method = load(name.split()[0], **SETTINGS[name])
    if not isinstance(method, Method):
        raise TypeError(f"{name} has no encoder")
    parts, clock = [passages[i : i + PASSAGES] for i in range(0, len(passages), PASSAGES)], Clock()
    for question, part in zip(questions[:2], parts[:2], strict=True):
        method.compress(question, part, Budget(keep=keep))
    seconds, tokens = [], []
    with timed_parts(method, clock):
        for question, part in zip(questions[2:], parts[2:], strict=True):
            began = time.perf_counter()
            tokens.append(method.compress(question, part, Budget(keep=keep)).stats.tokens_in)
            seconds.append(time.perf_counter() - began)
    return {
        "method": name, "passages": PASSAGES, "tokens_in": float(np.mean(tokens)), "keep": keep, "calls": len(seconds),
        **percentiles(seconds), **_shares(clock.seconds, sum(seconds)),
    }  # fmt: skip


def _shares(spent: dict[str, float], total: float) -> dict[str, float]:
    encoder = spent["backend"] + spent["tokenise"]
    shares = {
        "encoder": encoder,
        "backend": spent["backend"],
        "tokenise": spent["tokenise"],
        "segment": spent["segment"],
        "score_rest": spent["score"] - encoder,
        "fit": spent["fit"],
        "rest": total - spent["score"] - spent["segment"] - spent["fit"],
    }
    return {f"share_{name}": value / total for name, value in shares.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=30)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=RESULTS / "call_share.csv")
    options = parser.parse_args(arguments)
    passages = wiki_passages(PASSAGES * (options.calls + 2))
    questions = [example.question for example in data.load("span_dev", options.calls + 2)]
    rows = []
    for name in tqdm(SETTINGS, disable=None):
        rows.append(measure(name, passages, questions, options.keep))
        shares = " ".join(f"{k[6:]} {v:.1%}" for k, v in rows[-1].items() if k.startswith("share_"))
        print(f"{name}: p50 {rows[-1]['p50_s'] * 1000:.0f} ms; {shares}", flush=True)
    write_csv(options.out, rows)


if __name__ == "__main__":
    main()
