"""What every kernel benchmark shares: the green gate, honest timing, what was run on what, CSV."""

from __future__ import annotations

import csv
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results")
Calls = Sequence[Callable[[], Any]]


def require_green(*tests: str) -> None:
    """Run test files first: a speed is never reported on a red test.

    Raises
    ------
    SystemExit: a test failed.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels"), str(ROOT / "tests")])}
    command = [sys.executable, "-m", "pytest", "-q", *(str(ROOT / "tests" / "ops" / name) for name in tests)]
    if subprocess.run(command, cwd=ROOT, env=environment).returncode:
        raise SystemExit("the tests of this operation are red: nothing is measured")


def percentiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """p20, p50 and p80."""
    cut = statistics.quantiles(seconds, n=10, method="inclusive")
    return cut[1], cut[4], cut[7]


def time_cuda(calls: Calls, repeat: int = 50) -> tuple[float, float, float]:
    """Seconds of one call (p20, p50, p80): all calls captured in one CUDA graph, replayed ``repeat`` times.

    ``calls`` should touch more memory than the L2 cache holds, each call its own weights, or the cache is measured.
    """
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for call in calls:  # compile before the capture
            call()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    for _ in range(3):
        graph.replay()
    seconds = []
    for _ in range(repeat):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1000 / len(calls))
    return percentiles(seconds)


def time_cpu(calls: Calls, repeat: int = 20) -> tuple[float, float, float]:
    """Seconds of one call (p20, p50, p80), cycling through ``calls``."""
    for call in calls:
        call()
    seconds = []
    for i in range(repeat):
        start = time.perf_counter()
        calls[i % len(calls)]()
        seconds.append(time.perf_counter() - start)
    return percentiles(seconds)


def copies_beyond_cache(nbytes: int, device: str) -> int:
    """How many copies of a weight of ``nbytes`` are needed to be four times the last-level cache."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else 64 << 20
    return max(2, -(-4 * cache // nbytes))


def copy_bandwidth(device: str) -> float:
    """Bytes per second of a copy far larger than any cache, reads and writes counted."""
    size = (1 << 30) if device == "cuda" else (1 << 28)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timed = time_cuda if device == "cuda" else time_cpu
    return 2 * size / timed([lambda: target.copy_(source)], 20)[1]


def surroundings(device: str) -> dict[str, str]:
    """Device, versions and commit: what a row needs to be believed."""
    packages = {}
    for name in ("torch", "triton", "gemlite"):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = ""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout
    name = (
        torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    return {"device": name, **packages, "commit": commit.strip()}


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of equal keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
