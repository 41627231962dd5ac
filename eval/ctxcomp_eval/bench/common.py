"""What the benchmarks share: real text in given amounts, percentiles, and CSV files that say where they come from."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ctxcomp.counting import resolve_counter
from ctxcomp.types import Passage
from ctxcomp_eval import data, provenance

PACKAGES = ("ctxcomp", "numpy", "onnxruntime", "tokenizers", "tiktoken")
RESULTS = provenance.ROOT / "eval" / "results"


def wiki_texts() -> Iterator[str]:
    """The passages of lm/wiki_pool.

    Raises
    ------
    InputError: the shared data is not there.
    """
    return (row["text"] for row in data.read_rows(data.data_dir() / "lm" / "wiki_pool.jsonl.gz"))


def wiki_passages(n: int, tokens: int = 130) -> list[Passage]:
    """``n`` passages of about ``tokens`` tokens (a fifth more or less) from lm/wiki_pool, in its order."""
    counter = resolve_counter()
    fitting = (text for text in wiki_texts() if 0.8 * tokens <= counter.count(text) <= 1.2 * tokens)
    return [Passage(text, id=f"wiki-{i}", title=f"Passage {i}") for i, text in enumerate(islice(fitting, n))]


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Columns p20_s, p50_s, p80_s."""
    return {f"p{q}_s": float(np.percentile(seconds, q)) for q in (20, 50, 80)}


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], packages: Sequence[str] = PACKAGES) -> None:
    """Write rows with the commit, versions, device and date beside each."""
    stamp = {
        "commit": provenance.commit(),
        "versions": provenance.versions(*packages),
        "device": provenance.processor(),
        "date": provenance.today(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, [*rows[0], *stamp], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _short(value) for key, value in {**row, **stamp}.items()} for row in rows)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
