"""Peak resident memory of one large request, each method in a process of its own. Writes results/memory.csv.

    python -m ctxcomp_eval.bench.memory

`start_bytes` is the peak once the passages and the tokenizer are there, before the first call; `peak_bytes` the peak
at the end.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ctxcomp import load
from ctxcomp.text.token_pruner import DEFAULT_HEAD
from ctxcomp.types import Budget, CompressedText
from ctxcomp_eval.bench.common import RESULTS, wiki_passages, write_csv

METHODS = ("truncate", "bm25", "embedding_select", "sentence_pruner", "token_pruner")
TARGET_BYTES = 1_500_000_000
QUERY = "When was the company founded, and by whom?"


def peak_bytes() -> int:
    """Peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure(method: str, passages: int, keep: float) -> dict[str, Any]:
    """One row, about this process."""
    given = wiki_passages(passages)
    start = peak_bytes()
    began = time.perf_counter()
    result = load(method).compress(QUERY, given, Budget(keep=keep))
    seconds = time.perf_counter() - began
    if not isinstance(result, CompressedText):
        raise TypeError(f"{method} returns {type(result).__name__}")
    stats = result.stats
    return {
        "method": method, "passages": len(given), "tokens_in": stats.tokens_in, "tokens_out": stats.tokens_out,
        "seconds": seconds, "start_bytes": start, "peak_bytes": peak_bytes(), "target_bytes": TARGET_BYTES,
    }  # fmt: skip


def measure_apart(method: str, passages: int, keep: float) -> dict[str, Any]:
    """One row, from a fresh process."""
    command = [
        sys.executable,
        "-m",
        "ctxcomp_eval.bench.memory",
        "--child",
        method,
        "--passages",
        str(passages),
        "--keep",
        str(keep),
    ]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    row: dict[str, Any] = json.loads(output.splitlines()[-1])
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--passages", type=int, default=1000)
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated")
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS / "memory.csv")
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(measure(options.child, options.passages, options.keep)))
        return
    rows = []
    for method in tqdm(options.methods.split(","), disable=None):
        if method == "token_pruner" and not DEFAULT_HEAD.is_file():
            print(f"{method}: left out, {DEFAULT_HEAD.name} is not there yet")
            continue
        rows.append(measure_apart(method, options.passages, options.keep))
        print("{method}: peak {peak_bytes:,} bytes (start {start_bytes:,}), {seconds:.1f} s".format(**rows[-1]))
    write_csv(options.out, rows)


if __name__ == "__main__":
    main()
