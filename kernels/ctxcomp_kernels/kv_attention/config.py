"""How decode attention cuts its work: data in ``configs.json``, by device class.

``"default"`` is reasoned (one warp a program, so that no barrier stands between the two products), not measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from ctxcomp_kernels.dispatch import interpreting

FILE = Path(__file__).with_name("configs.json")


@dataclass(frozen=True)
class Config:
    """Numbers of one device class.

    block_tokens: tokens per step at most; a power of two >= 16. A step never crosses a group of keys.
    warps, stages: Triton's launch options, for 16 query rows of up to 128 channels of up to 4 bits.
    split_tokens: fewest tokens worth a program of their own.
    programs_per_processor: programs wanted per multiprocessor.
    """

    block_tokens: int
    warps: int
    stages: int
    split_tokens: int
    programs_per_processor: int


@lru_cache(maxsize=8)
def pick(device: torch.device) -> tuple[Config, int]:
    """The configuration for a device, and how many multiprocessors it has."""
    table = json.loads(FILE.read_text(encoding="utf-8"))
    if interpreting() or device.type != "cuda":
        return Config(**table["default"]), 1
    properties = torch.cuda.get_device_properties(device)
    name = f"sm{properties.major}{properties.minor}"
    return Config(**table.get(name, table["default"])), properties.multi_processor_count


def split_sizes(tokens: int, heads: int, block: int, config: Config, processors: int) -> tuple[int, int]:
    """How many programs share ``tokens`` of one of ``heads`` (batch x KV) heads, and how many tokens each takes."""
    wanted = max(1, config.programs_per_processor * processors // max(heads, 1))
    share = max(config.split_tokens, -(-tokens // wanted))
    share = -(-share // block) * block
    return -(-tokens // share), share
