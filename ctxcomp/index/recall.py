"""How much a compressed index finds of what an exact search finds, on the user's own data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctxcomp.index.codes import Floats, Rows, exact_nearest
from ctxcomp.segment import segment
from ctxcomp.types import Passage

if TYPE_CHECKING:
    from ctxcomp.index.index import Index

DEPTH = 10
"""Recall is that of the best so many."""
SHORTLISTS = (20, 50, 100, 200, 500, 1000)
QUERIES = 400
"""Held-out queries that are sampled, at most."""
_SENTENCE_CHARACTERS = (30, 300)


@dataclass(frozen=True, slots=True)
class Recall:
    """What a build found out about itself.

    Parameters
    ----------
    recall: share of the exact search's best ten that this index returns, in [0, 1]; 1 where there was nothing to lose.
    low, high: bootstrap 95 % interval over the queries.
    queries: how many were asked; those that chose the shortlist are not among them.
    source: what they were.
    passages: vectors in the index.
    bytes_per_vector: of a vector in memory, without what all of them share.
    float_bytes: of the same vector as float32.
    """

    preset: str
    recall: float
    low: float
    high: float
    queries: int
    source: str
    passages: int
    bytes_per_vector: int
    float_bytes: int

    def __str__(self) -> str:
        size = f"{self.passages:,} passages, {self.bytes_per_vector} of {self.float_bytes} bytes a vector in memory"
        if not self.queries:
            exact = self.preset == "exact" or not self.passages
            return f"{self.preset}: {size}, " + (
                "every search is exact" if exact else "no query to measure recall with"
            )
        measured = f"recall@{DEPTH} {self.recall:.3f} [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.preset}: {size}, {measured} against exact search on {self.queries} {self.source}"

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def own_sentences(passages: Sequence[Passage], seed: int = 0, limit: int = QUERIES) -> list[str]:
    """One sentence each of a random sample of the passages: what queries are made of where none are given."""
    generator = np.random.default_rng(seed)
    low, high = _SENTENCE_CHARACTERS
    found: list[str] = []
    for row in generator.permutation(len(passages))[: 2 * limit].tolist():
        text = passages[row].text
        units = segment(text)
        lengths = units.end - units.start
        fitting = np.flatnonzero((lengths >= low) & (lengths <= high))
        if len(fitting) and len(found) < limit:
            i = int(generator.choice(fitting))
            found.append(text[units.start[i] : units.end[i]])
    return found


def hits(candidates: Rows, exact: Rows) -> NDArray[np.float64]:
    """Share of each query's exact rows that are among its candidates, float64 ``[n]``."""
    found = [np.isin(best, own).mean() for own, best in zip(candidates, exact, strict=True)]
    return np.array(found, dtype=np.float64)


def interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """Bootstrap 95 % interval of the mean."""
    picks = np.random.default_rng(seed).integers(len(values), size=(1000, len(values)))
    low, high = np.percentile(values[picks].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def choose_shortlist(ranked: Rows, exact: Rows, target: float) -> int:
    """The least of ``SHORTLISTS`` that reaches the target.

    Parameters
    ----------
    ranked: rows by the codes, ``[n, up to the longest shortlist]``.
    exact: the best rows, ``[n, DEPTH]``.
    """
    reached = (size for size in SHORTLISTS if hits(ranked[:, :size], exact).mean() >= target)
    return next(reached, SHORTLISTS[-1])


def measure(index: Index, queries: Floats, kind: str, target: float, seed: int) -> tuple[int, Recall]:
    """The shortlist that reaches a recall, found with one half of the queries, and the report on the other half.

    Parameters
    ----------
    queries: vectors ``[n, d]``.
    kind: what they are, in words.
    target: of recall, in (0, 1].
    """
    n, dimension = index.vectors.shape
    size, shortlist = index.bytes_per_vector, index.shortlist
    if index.codes is None or not n or not len(queries):
        return shortlist, Recall(index.preset.name, 1.0, 1.0, 1.0, 0, kind, n, size, 4 * dimension)
    queries = queries[np.random.default_rng(seed).permutation(len(queries))[:QUERIES]]
    choosing, testing = (queries[::2], queries[1::2]) if len(queries) > 1 else (queries, queries)
    depth = min(DEPTH, n)
    ranked = index.codes.nearest(index.tuned_queries(choosing), min(SHORTLISTS[-1], n))
    shortlist = choose_shortlist(ranked, exact_nearest(index.tuned_queries(choosing), index.vectors, depth)[1], target)
    found = replace(index, shortlist=shortlist).nearest(testing, depth)[1]
    values = hits(found, exact_nearest(index.tuned_queries(testing), index.vectors, depth)[1])
    low, high = interval(values, seed)
    return shortlist, Recall(
        index.preset.name, float(values.mean()), low, high, len(values), kind, n, size, 4 * dimension
    )
