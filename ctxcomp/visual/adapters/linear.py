"""One-dimensional positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def linear_positions(inputs: Mapping[str, Any]) -> Tensor:
    """Positions ``[B, L]`` that count the tokens which are no padding, as ``generate`` counts them."""
    mask = inputs["attention_mask"].long()
    positions: Tensor = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)
    return positions
