"""`random`: keep units at random, the honest baseline."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctxcomp.candidates import Candidates
from ctxcomp.compressor import Scores, Selector
from ctxcomp.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Random(Selector):
    """Keeps units with equal chance: what any method must beat.

    The draw depends on the seed and on the request's texts only, so that a batch equals its singles.

    Parameters
    ----------
    seed: another seed is another draw.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.seed < 2**63:
            raise InputError("seed must be in [0, 2**63)")

    def score(self, batch: Sequence[Candidates]) -> list[Scores]:
        """Uniform in [0, 1)."""
        return [np.random.default_rng(self._seed(units)).random(len(units)) for units in batch]

    def _seed(self, units: Candidates) -> int:
        digest = hashlib.sha256(str(self.seed).encode())
        for text in (units.query, *(p.text for p in units.passages)):
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        return int.from_bytes(digest.digest()[:8], "big")
