"""The memory planner: what fits into a GPU, from the model's configuration alone, and what it then takes.

Of all combinations of weight bits, KV cache policy and share of the cache that is kept, the one that costs the least
quality and fits is planned. ``measure`` runs it and puts the measured footprint beside the predicted one.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxcomp.errors import InputError
from ctxcomp.generate.footprint import Footprint, Shape, kv_cache_bytes, prefill_bytes, weights_bytes

if TYPE_CHECKING:
    from ctxcomp.generate.generator import Generator

RUNTIME_BYTES = 600_000_000
"""CUDA's context, its libraries' work space and what the allocator cannot use."""

WEIGHT_COST = {16: 0.0, 8: 0.1, 4: 2.5, 3: 14.0}
KV_COST: dict[str | None, float] = {None: 0.0, "int8": 0.1, "kivi4": 0.5, "kivi2": 4.0}
KEEP_COST = {1.0: 0.0, 0.5: 2.0, 0.25: 5.0}
"""What each choice costs in percent of perplexity, roughly: published figures for 7B to 8B models, only to rank by."""

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class Plan:
    """How to run a model in a given memory.

    Parameters
    ----------
    model: its path or type.
    gpu_bytes: what there is.
    document_tokens, answer_tokens: of each of ``batch`` requests: the prompt and the answer.
    weight_bits: of the linear layers; 16 leaves the checkpoint as it is.
    kv: the KV cache policy for ``Generator``; None keeps the cache whole.
    keep: the share of the prompt's tokens that stays in the cache, in (0, 1].
    predicted, measured: bytes by part; nothing is measured until ``measure``.
    """

    model: str
    gpu_bytes: int
    document_tokens: int
    batch: int
    answer_tokens: int
    weight_bits: int
    kv: str | None
    keep: float
    predicted: Footprint
    measured: Footprint | None = None

    def generator(self, path: str | Path, method: str = "rtn", **options: Any) -> Generator:
        """The generator that was planned.

        Parameters
        ----------
        path: the checkpoint that the plan was made for.
        method: how to quantize weights that the plan makes smaller; all but "rtn" need ``calibration=`` texts.
        options: more arguments of ``Generator.from_pretrained``.
        """
        from ctxcomp.generate.generator import Generator

        smaller: dict[str, Any] = {} if self.weight_bits == 16 else {"weights": method, "bits": self.weight_bits}
        return Generator.from_pretrained(path, kv=self.kv, **smaller, **options)

    def measure(self, generator: Generator) -> Plan:
        """The same plan with the footprint of a generator at work: random prompts of this size, on its device."""
        from ctxcomp.generate.footprint import measured

        found = measured(generator, self.document_tokens, self.batch, self.answer_tokens)
        return replace(self, measured=found)

    def __str__(self) -> str:
        weights = "as they are" if self.weight_bits == 16 else f"{self.weight_bits} bits"
        head = [
            f"{self.model}: {self.batch} x ({self.document_tokens} + {self.answer_tokens}) tokens "
            f"in {_readable(self.gpu_bytes)}",
            f"weights {weights}, KV cache {self.kv or 'whole'}, keep {self.keep:g}",
        ]
        title = f"{'':<14}{'predicted':>14}" + (f"{'measured':>14}" if self.measured else "")
        rows = [self._row(name) for name in ("weights", "kv", "prefill", "runtime", "total")]
        return "\n".join([*head, title, *rows])

    def _row(self, name: str) -> str:
        found = [f"{name:<14}{_readable(getattr(self.predicted, name)):>14}"]
        if self.measured is not None:
            value = getattr(self.measured, name)
            found.append(f"{_readable(value) if value is not None else '-':>14}")
        return "".join(found)


def plan(
    gpu_bytes: int,
    model: Any,
    document_tokens: int,
    *,
    batch: int = 1,
    answer_tokens: int = 512,
    runtime_bytes: int = RUNTIME_BYTES,
) -> Plan:
    """The plan that costs the least quality and fits.

    Parameters
    ----------
    gpu_bytes: memory of the GPU (or of a CPU process), in bytes.
    model: a transformers configuration, a checkpoint directory, or a hub id in the local cache.
    document_tokens: tokens of a prompt, the documents included.
    batch: requests at a time.
    answer_tokens: tokens of an answer.
    runtime_bytes: taken by neither weights nor caches.

    Raises
    ------
    InputError: nothing fits; the message says what the smallest plan needs.
    """
    numbers = {
        "gpu_bytes": gpu_bytes,
        "document_tokens": document_tokens,
        "batch": batch,
        "answer_tokens": answer_tokens,
    }
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} must be a whole number, 1 or more, got {value!r}")
    shape = Shape.of(model)
    smallest: Plan | None = None
    for bits, kv, keep in _choices(shape):
        policy = _policy(kv, keep)
        predicted = Footprint(
            weights=weights_bytes(shape, bits),
            kv=kv_cache_bytes(shape, policy, keep, document_tokens, answer_tokens) * batch,
            prefill=prefill_bytes(shape, document_tokens) * batch,
            runtime=runtime_bytes,
        )
        found = Plan(shape.name, gpu_bytes, document_tokens, batch, answer_tokens, bits, policy, keep, predicted)
        if predicted.total <= gpu_bytes:
            return found
        if smallest is None or predicted.total < smallest.predicted.total:
            smallest = found
    raise InputError(
        f"{_readable(gpu_bytes)} is too little for {shape.name}; the smallest plan is this, so compress the documents "
        f"more, take a smaller batch or a smaller model:\n{smallest}"
    )


def _choices(shape: Shape) -> list[tuple[int, str | None, float]]:
    """Weight bits, KV codec and keep, the least costly first."""
    bits = WEIGHT_COST if shape.stored_bytes is None else (16,)
    every = itertools.product(bits, KV_COST, KEEP_COST)
    return sorted(every, key=lambda one: WEIGHT_COST[one[0]] + KV_COST[one[1]] + KEEP_COST[one[2]])


def _policy(kv: str | None, keep: float) -> str | None:
    stages = ([f"snapkv(keep={keep:g})"] if keep < 1 else []) + ([kv] if kv else [])
    return "+".join(stages) or None


def parse_bytes(text: str) -> int:
    """A size such as "24GiB", "80 GB" or "8000000000", in bytes.

    Raises
    ------
    InputError: it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise InputError(f"a size is a number with one of {', '.join(filter(None, UNITS))}, got {text!r}")
    return int(float(match[1]) * unit)


def _readable(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"
