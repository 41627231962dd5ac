"""Search block sizes of the packed linear layer on this GPU, and keep the best of each shape in ``configs.json``."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Literal

import torch
from triton.runtime.errors import OutOfResources

from bench.timing import copies_beyond_cache, time_cuda
from bench.wna16 import GROUP, random_weight
from ctxcomp_kernels.wna16 import config, fused


def candidates(m: int) -> Iterator[config.Config]:
    """All that can make sense for M rows: enough work for each warp, no more shared memory than there is."""
    kernels: tuple[Literal["gemv", "dot"], ...] = ("gemv", "dot") if m <= fused.GEMV_M else ("dot",)
    for kernel, block_n, block_w, split, warps, stages in itertools.product(
        kernels, (16, 32, 64, 128), (8, 16, 32, 64), (1, 2, 4, 8), (1, 2, 4, 8), (1, 3, 4, 6)
    ):
        words = block_n * block_w // (32 * warps)  # of one thread, in one block
        if not 1 <= words <= 16 or (kernel == "dot" and (block_w < 16 or stages == 1)):
            continue
        if block_n * block_w * 4 * stages > 96 * 1024:
            continue
        yield config.Config(kernel, block_n, block_w, split, warps, stages)


def tune(shapes: tuple[tuple[int, int], ...], repeat: int = 7) -> None:
    """Time every candidate for every number of rows, CUDA graphs and rotating weights as in the benchmark."""
    table = config.load()
    found = table.setdefault(fused.device_class(torch.device("cuda")), {})
    for n, k in shapes:
        first = random_weight(n, k, "cuda")
        weights = [first, *(random_weight(n, k, "cuda") for _ in range(copies_beyond_cache(first.nbytes, "cuda") - 1))]
        for m in config.BUCKETS:
            x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
            timed = []
            for candidate in candidates(m):
                calls = [
                    lambda w=w, c=candidate, x=x: fused.linear(x, w.packed, w.scales, w.zeros, 4, GROUP, None, c)
                    for w in weights
                ]
                try:
                    timed.append((time_cuda(calls, repeat)[1], candidate))
                except OutOfResources:
                    continue
            seconds, best = min(timed, key=lambda pair: pair[0])
            found.setdefault(f"{n}x{k}", {})[str(m)] = asdict(best)
            sys.stdout.write(f"M={m:<3} {n}x{k} {seconds * 1e6:8.1f} us {best}\n")
    write(table)


def write(table: dict[str, dict[str, dict[str, dict[str, object]]]]) -> None:
    """Store the table, one configuration per line."""
    devices = []
    for device, shapes in table.items():
        parts = []
        for shape, rows in shapes.items():
            lines = ",\n".join(f'   "{m}": {json.dumps(chosen)}' for m, chosen in rows.items())
            parts.append(f'  "{shape}": {{\n{lines}\n  }}')
        devices.append(f' "{device}": {{\n' + ",\n".join(parts) + "\n }")
    config.FILE.write_text("{\n" + ",\n".join(devices) + "\n}\n", encoding="utf-8")
    config.load.cache_clear()
    config.pick.cache_clear()
