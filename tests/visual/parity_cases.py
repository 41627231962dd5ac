"""Seeded inputs of the parity tests, and how selections are written down."""

from __future__ import annotations

import torch


def globalcom2_case(seed: int):
    """Tokens on a side, rows and columns of crops, image height and width, keep, ``[1 + crops, side²]`` scores."""
    g = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=g))

    side, rows, columns = draw(4, 13), draw(1, 4), draw(1, 4)
    if rows * columns == 1:
        columns = 2
    height, width = draw(20, 200), draw(20, 200)
    scores = torch.randn(1 + rows * columns, side * side, generator=g) * (1 + seed % 5)
    return side, rows, columns, height, width, (0.1, 0.25, 0.4, 0.6)[seed % 4], scores


def visionzip_case(seed: int):
    """Tokens, dominant and contextual ones, attention ``[1, 4, n + 1, n + 1]``, keys ``[1, n + 1, 8]``, features."""
    g = torch.Generator().manual_seed(10_000 + seed)
    n = int(torch.randint(20, 200, (), generator=g))
    kept = int(torch.randint(8, n - 4, (), generator=g))
    attention = torch.randn(1, 4, n + 1, n + 1, generator=g).softmax(-1)
    keys = torch.randn(1, n + 1, 8, generator=g)
    contextual = max(1, round(kept * 10 / 64))
    return n, kept - contextual, contextual, attention, keys, torch.randn(1, n + 1, 6, generator=g)


def prumerge_case(seed: int):
    """Tokens, query and key of the whole width ``[1, n + 1, 16]``, features, keep or None for the adaptive one."""
    g = torch.Generator().manual_seed(20_000 + seed)
    n = int(torch.randint(60, 160, (), generator=g))
    query, key = (torch.randn(1, n + 1, 16, generator=g) * 2 for _ in range(2))
    return n, query, key, torch.randn(1, n + 1, 16, generator=g), (None, 0.125, 0.25)[seed % 3]


def mmtok_case(seed: int):
    """Question embeddings ``[m, 16]``, projected features ``[n, 16]``, the tower's own ``[n, 16]``, tokens to keep."""
    g = torch.Generator().manual_seed(30_000 + seed)
    n, m = int(torch.randint(10, 200, (), generator=g)), int(torch.randint(1, 12, (), generator=g))
    kept = int(torch.randint(1, n, (), generator=g))
    return *(torch.randn(k, 16, generator=g) for k in (m, n, n)), kept


def written(indices, n: int) -> str:
    """A set of token numbers below ``n`` as a hexadecimal bit mask."""
    return f"{sum(1 << int(i) for i in indices):0{(n + 3) // 4}x}"


def digest(features: torch.Tensor) -> list[float]:
    """A few sums that tell features ``[k, d]`` apart, rows and columns weighted."""
    values = features.double()
    rows = torch.arange(1, values.shape[0] + 1, dtype=torch.float64).cos()[:, None]
    columns = torch.arange(1, values.shape[1] + 1, dtype=torch.float64).sin()
    return [round(float(one), 4) for one in (values.sum(), (values * rows).sum(), (values * rows * columns).sum())]
