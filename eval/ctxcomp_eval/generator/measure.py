"""Losses of a language model, window by window, and what two models' losses say of each other."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from ctxcomp.errors import InputError
from ctxcomp_eval.lm.documents import Exchange, Sources, needle, quote

Losses = NDArray[np.float64]
"""``[windows]``: the mean loss of each window's tokens, in nats."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap 95 % interval over windows."""

    mean: float
    low: float
    high: float


def windows(tokenizer: Any, path: Path, length: int, limit: int | None = None) -> Tensor:
    """The first ``limit`` windows of ``length`` token ids of a text file: int64 ``[n, length]``.

    Raises
    ------
    InputError: the text is shorter than a window.
    """
    ids = tokenizer(path.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    count = min(len(ids) // length, limit or len(ids))
    if not count:
        raise InputError(f"{path} holds {len(ids)} tokens, one window has {length}")
    return torch.tensor(ids[: count * length]).view(count, length)


@torch.no_grad()
def losses(model: Any, ids: Tensor, batch: int = 4) -> Losses:
    """The loss of each window, every token but the first predicted from all before it."""
    found = []
    for part in tqdm(torch.split(ids, batch), desc="perplexity", leave=False, mininterval=2):
        logits = model(part).logits[:, :-1].float()
        found.append(functional.cross_entropy(logits.transpose(1, 2), part[:, 1:], reduction="none").mean(1))
    return torch.cat(found).double().numpy()


def interval(values: Losses, of: Callable[[Losses], Any] = lambda means: means) -> Interval:
    """The mean over windows, and its interval; ``of`` turns a mean into what is reported."""
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(of(values[drawn].mean(1)), [2.5, 97.5])
    return Interval(float(of(values.mean())), float(low), float(high))


def closed(rtn: Losses, other: Losses, original: Losses) -> Interval:
    """The share of round-to-nearest's loss gap to the original that another method closes."""
    drawn = np.random.default_rng(0).integers(len(rtn), size=(RESAMPLES, len(rtn)))
    gap, gain = (rtn - original)[drawn].mean(1), (rtn - other)[drawn].mean(1)
    low, high = np.percentile(gain / gap, [2.5, 97.5])
    return Interval(float((rtn - other).mean() / (rtn - original).mean()), float(low), float(high))


def exchanges(kind: str, count: int, words: int, seed: int = 0) -> list[Exchange]:
    """Held-out questions of one kind ("quote" or "needle") over contexts of up to about ``words`` words."""
    sources, generator = Sources.of("dev"), random.Random(f"{kind} {seed}")
    if kind == "needle":
        return [needle(sources.wiki, generator, max(1, words // 100)) for _ in range(count)]
    rows = generator.sample(sources.questions, count)
    return [quote(row, sources.wiki, generator, max(0, words // 100 - 1)) for row in rows]
