"""Block sizes per kind of device and shape: data in ``configs.json``, written by ``kernels/bench/wna16.py --tune``.

The file maps a device class (``"sm90"``: compute capability 9.0) to shapes (``"4096x14336"``: N x K, or ``"*"``) to
numbers of rows (``"1"``, ``"2"``, ``"4"`` ... ``"64"``: up to so many) to a configuration. ``"default"`` holds what is
safe on every device since Ampere; it is reasoned, not measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

FILE = Path(__file__).with_name("configs.json")
BUCKETS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Config:
    """How one kernel cuts the work."""

    kernel: Literal["gemv", "dot"]
    block_n: int  # outputs per program
    block_w: int  # words along K per block
    split_k: int  # programs that share one output along K
    warps: int
    stages: int  # 1: plain loads; more: that many asynchronous copies under way


@lru_cache(maxsize=1)
def load() -> Any:
    """The content of ``configs.json``."""
    return json.loads(FILE.read_text(encoding="utf-8"))


@lru_cache(maxsize=4096)
def pick(device_class: str, m: int, n: int, k: int) -> Config:
    """The configuration for M rows and a weight of N x K: the device's own, for this shape or any, or the default."""
    bucket = str(next(size for size in BUCKETS if m <= size))
    table = load()
    for device in (device_class, "default"):
        for shape in (f"{n}x{k}", "*"):
            found = table.get(device, {}).get(shape, {}).get(bucket)
            if found:
                return Config(**found)
    raise KeyError(f"configs.json has no default for {bucket} rows")
