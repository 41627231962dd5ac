"""What an early exit of `sentence_pruner` saves and costs, on questions of nq20. Writes results/early_exit.csv.

    python -m ctxcomp_eval.bench.early_exit

Each setting compresses every question by a call of its own, as a server would. Where vectors are stored, they were made
before the clock starts, as an index does. `read` is the mean share of passages that the cross-encoder reads;
`lost_*` are the questions whose answer was kept by the default and is not now, less those the other way round.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from tqdm import tqdm

from ctxcomp import Budget, Passage, Request
from ctxcomp.text.sentence_pruner import SentencePruner
from ctxcomp_eval import data
from ctxcomp_eval.bench.common import RESULTS, percentiles, write_csv
from ctxcomp_eval.retention import retained

KEEPS = (0.05, 0.1, 0.25)
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"cross_margin": 5.0},
    {"reuse_embeddings": True, "cross_margin": 5.0},
    {"reuse_embeddings": True, "cross_margin": 4.0},
)


@contextmanager
def counted(shares: list[float]) -> Iterator[None]:
    """Note the share of passages that each call in this context reads with the query."""
    plain: Callable[..., list[int]] = SentencePruner._read

    def noting(self: SentencePruner, units: Any, signals: Any) -> list[int]:
        chosen = plain(self, units, signals)
        shares.append(len(chosen) / len(units.passages))
        return chosen

    with patch.object(SentencePruner, "_read", noting):
        yield


def measure(examples: Sequence[data.Example], passages: Sequence[tuple[Passage, ...]], settings: dict[str, Any]) -> Any:
    """Latencies of single calls, the share of passages read, and per keep which answers are still there."""
    method = SentencePruner(**settings)
    method.compress("warm up", passages[0], Budget(keep=0.1))
    shares: list[float] = []
    seconds, kept = [], []
    for example, own in zip(tqdm(examples, desc=str(settings), disable=None), passages, strict=True):
        began = time.perf_counter()
        with counted(shares):
            results = [method.compress(example.question, own, Budget(keep=KEEPS[0]))]
        seconds.append(time.perf_counter() - began)
        results += method.compress_batch([Request(example.question, own, Budget(keep=keep)) for keep in KEEPS[1:]])
        kept.append([retained(example.answers, result.text) for result in results])
    row = {"setting": " ".join(f"{k}={v}" for k, v in settings.items()) or "default", "questions": len(examples)}
    return {**row, "read": float(np.mean(shares)), **percentiles(seconds)}, np.array(kept, dtype=float)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--out", type=Path, default=RESULTS / "early_exit.csv")
    options = parser.parse_args(arguments)
    examples = [e for e in data.load("nq20", options.questions) if retained(e.answers, e.context)]
    encoder = SentencePruner().load_encoder("none")
    stored = [
        tuple(
            replace(p, embedding=tuple(v.tolist()))
            for p, v in zip(example.passages, encoder.embed([p.text for p in example.passages]), strict=True)
        )
        for example in tqdm(examples, desc="index", disable=None)
    ]
    rows, base = [], None
    for settings in SETTINGS:
        row, kept = measure(examples, stored, settings)
        base = kept if base is None else base
        for keep, own, default in zip(KEEPS, kept.T, base.T, strict=True):
            row |= {f"retention_{keep}": float(own.mean()), f"lost_{keep}": float((default - own).mean())}
        rows.append(row)
        print(", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
    write_csv(options.out, rows)


if __name__ == "__main__":
    main()
