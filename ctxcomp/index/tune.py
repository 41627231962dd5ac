"""The preset ``tuned``: queries and centroids are trained together so that the codes rank the right passage higher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctxcomp.errors import InputError
from ctxcomp.index.codes import Codes, Floats, Rows, padded
from ctxcomp.index.recall import DEPTH, interval
from ctxcomp.index.source import checked_vectors
from ctxcomp.optional import require
from ctxcomp.progress import tracked

if TYPE_CHECKING:
    from ctxcomp.index.index import Index, Pair

FEWEST_PAIRS = 32
CODES_SHORTLIST = 50
"""Of the fast scan, whose scores are rounded, where the codes alone are to rank."""
HELD_OUT = 0.1
"""Share of the passages whose pairs choose the state; nothing is trained on them."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """How to train.

    Parameters
    ----------
    steps: of training.
    checks: how often on the way held-out pairs are ranked; the best state is kept, if it is better than the untrained
        one by more than the standard error of the difference.
    batch: pairs a step.
    negatives: the current index's best passages that each query is told to rank lower.
    adapter_rate, centroid_rate: learning rates; centroids are about .05 in size where vectors have length 1.
    scale: what scores are multiplied with before the loss; cosines differ by too little for it.
    """

    steps: int = 400
    checks: int = 8
    batch: int = 64
    negatives: int = 100
    adapter_rate: float = 2e-4
    centroid_rate: float = 2e-5
    scale: float = 20.0


@dataclass(frozen=True, eq=False)
class State:
    """What is trained: queries' matrix float32 ``[d, d]`` and centroids float32 ``[m, 16, d / m]``, d padded."""

    adapter: Floats
    centroids: Floats


def tune(index: Index, pairs: Sequence[Pair], *, seed: int = 0, options: Tuning | None = None) -> Index:
    """Train an index's queries and centroids.

    Parameters
    ----------
    index: of the preset ``tuned``, with the codes that stay as they are.
    pairs: a query, text or vector, and the id or position of the passage that answers it.

    Raises
    ------
    InputError: too few pairs, or one names no passage.
    MissingDependencyError: torch is not installed.

    Source
    ------
    Zhan et al., "Jointly Optimizing Query Encoder and Product Quantization to Improve Retrieval Performance" (2021).
    Document encoder and codes are frozen; negatives come from the index as it is at each step, into which the centroids
    are copied; the loss is pairwise, weighted by the difference of reciprocal ranks. Deviations: a matrix behind the
    query encoder is trained instead of the encoder, so that queries are encoded once (minutes on a CPU), and by the
    stored vectors: by the decoded ones it learns the rounding errors of the passages that it is trained on (22,000
    passages, 962 dev questions, best step: mean reciprocal rank by codes .760 untrained, .763 and .766, by stored
    vectors .778, .782 and .790). Product quantization has no learned rotation and 16 centroids a part, for FAISS's
    fast scan; 100 negatives; scores are scaled; what does not rank held-out pairs better is not kept.
    """
    torch = require("torch", extra="models")
    options = options or Tuning()
    if index.codes is None:
        raise InputError("the preset 'tuned' needs passages to be trained on, got none")
    queries, positives = _resolved(index, pairs)
    held = np.random.default_rng(seed).permutation(len(index))[: max(1, round(HELD_OUT * len(index)))]
    judging = np.isin(positives, held)
    if judging.all() or not judging.any():
        judging = np.arange(len(positives)) % 10 == 0
    start = State(np.eye(queries.shape[1], dtype=np.float32), index.codes.centroids)
    before = best = _ranks(index.codes, start, queries[judging], positives[judging])
    kept = start
    for state in _train(
        torch,
        index.codes,
        index.vectors,
        start,
        queries[~judging],
        positives[~judging],
        options,
        seed,
    ):
        ranks = _ranks(index.codes, state, queries[judging], positives[judging])
        if ranks.mean() > best.mean():
            best, kept = ranks, state
    gain = best - before
    if gain.mean() <= gain.std() / np.sqrt(len(gain)):
        best, kept, gain = before, start, 0 * gain
    low, high = interval(gain, seed)
    note = (
        f"the right passage of {len(best)} held-out pairs: mean reciprocal rank {before.mean():.3f} before training, "
        f"{best.mean():.3f} after, a gain of {gain.mean():.3f} [{low:.3f}, {high:.3f}]"
    )
    codes = replace(index.codes.scored_by(kept.centroids), assigning=start.centroids)
    return replace(index, codes=codes, adapter=kept.adapter, note=note)


def _resolved(index: Index, pairs: Sequence[Pair]) -> tuple[Floats, Rows]:
    """Queries float32 ``[n, padded]`` and the positions of their passages int64 ``[n]``."""
    if len(pairs) < FEWEST_PAIRS:
        raise InputError(
            f"the preset 'tuned' needs {FEWEST_PAIRS} pairs of query and passage or more, got {len(pairs)}"
        )
    places = {passage.id: row for row, passage in reversed(list(enumerate(index.passages)))}
    positives = []
    for i, (_, which) in enumerate(pairs):
        row = places.get(which, -1) if isinstance(which, str) else int(which)
        if not 0 <= row < len(index):
            raise InputError(f"pairs[{i}] names the passage {which!r}, which the index does not hold")
        positives.append(row)
    asked = [query for query, _ in pairs]
    if all(isinstance(query, str) for query in asked):
        vectors = index.query_vectors([str(query) for query in asked])
    else:
        vectors = checked_vectors(asked, len(asked), index.vectors.shape[1], index.metric)
    return padded(vectors), np.array(positives, dtype=np.int64)


def _train(
    torch: Any,
    codes: Codes,
    vectors: Floats,
    start: State,
    queries: Floats,
    positives: Rows,
    options: Tuning,
    seed: int,
) -> Iterator[State]:
    """The state at each check; ``vectors`` are the documents', ``[n, d]``."""
    shift = torch.zeros(start.adapter.shape, requires_grad=True)
    centroids = torch.tensor(start.centroids, requires_grad=True)
    groups = [{"params": [shift], "lr": options.adapter_rate}, {"params": [centroids], "lr": options.centroid_rate}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    parts = codes.parts(vectors)
    documents_of = torch.tensor(parts)
    current = codes.scored_by(start.centroids)
    generator = np.random.default_rng(seed)
    every = -(-options.steps // options.checks)
    size = min(options.batch, len(queries))
    for step in tracked(range(options.steps)):
        rows = generator.choice(len(queries), size, replace=False)
        asked = torch.tensor(queries[rows])
        asked = asked + asked @ shift
        current.set_centroids(centroids.detach().numpy())
        with torch.no_grad():
            found = current.nearest(asked.numpy(), min(options.negatives, len(codes)))
        rivals = np.concatenate([positives[rows][:, None], found], axis=1)
        same = torch.tensor(found == positives[rows][:, None])
        stored = torch.tensor(padded(vectors[rivals.ravel()])).view(*rivals.shape, -1)
        decoded = centroids[torch.arange(parts.shape[1]), documents_of[torch.tensor(rivals)]].flatten(2)
        loss = sum(
            _loss(torch, options.scale * torch.einsum("bd,bnd->bn", side, documents), same)
            for side, documents in ((asked, stored), (asked.detach(), decoded))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % every == 0 or step + 1 == options.steps:
            yield State(start.adapter + shift.detach().numpy(), centroids.detach().numpy().copy())


def _loss(torch: Any, scores: Any, same: Any) -> Any:
    """How far rivals score above the right document, by what that costs in reciprocal rank.

    Parameters
    ----------
    scores: ``[b, 1 + n]``, the right document's first.
    same: bool ``[b, n]``, rivals that are the right document.
    """
    right, wrong = scores[:, :1], scores[:, 1:].masked_fill(same, -torch.inf)
    with torch.no_grad():
        rank = 1 + (wrong > right).sum(1, keepdim=True)
        others = 1 + (wrong[:, :, None] < wrong[:, None, :]).sum(2) + (wrong < right)
        weight = (1 / rank - 1 / others).abs()
    return (torch.nn.functional.softplus(wrong - right) * weight).sum(1).mean()


def _ranks(codes: Codes, state: State, queries: Floats, positives: Rows) -> NDArray[np.float64]:
    """Reciprocal rank of each query's passage among the codes' best ten, 0 beyond."""
    depth = min(DEPTH, len(codes))
    scored = codes.scored_by(state.centroids)
    _, found = scored.best(queries @ state.adapter, depth, min(CODES_SHORTLIST, len(codes)))
    places = found == positives[:, None]
    return np.asarray(np.where(places.any(axis=1), 1 / (1 + places.argmax(axis=1)), 0.0), dtype=np.float64)
