"""The contract of all compressors, and the base class of those that select text."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ctxcomp.candidates import Candidates, candidates
from ctxcomp.counting import CounterLike, TokenCounter, resolve_counter
from ctxcomp.errors import InputError, ModelError
from ctxcomp.fields import check_fields
from ctxcomp.fit import FitOptions, Fitted, fit
from ctxcomp.render import render, spans_of
from ctxcomp.segment import Level
from ctxcomp.types import Budget, Compressed, CompressedText, Passage, Request, Stats

C = TypeVar("C", bound=Compressed)
Scores = NDArray[np.float64]


class Compressor(ABC, Generic[C]):
    """Makes a context smaller. Instances are frozen dataclasses: their fields are the configuration."""

    @property
    def name(self) -> str:
        """What ``stats.method`` reports: the registry name."""
        return snake_case(type(self).__name__)

    @abstractmethod
    def compress_batch(self, requests: Sequence[Request]) -> list[C]:
        """Compress several requests; equal to compressing each alone, and faster."""

    def compress(self, query: str, passages: Sequence[Passage], budget: Budget) -> C:
        """Compress one request.

        Parameters
        ----------
        query: what the context is for; "" for none.
        passages: in the order in which they are to stand; not modified.
        budget: what may remain.

        Raises
        ------
        InputError: an argument is of the wrong kind.
        BudgetError: text that must be kept does not fit into the budget.
        """
        request = Request(query, passages, budget)  # type: ignore[arg-type]  # it makes a tuple of them
        return self.compress_batch([request])[0]


@dataclass(frozen=True, kw_only=True)
class Selector(FitOptions, Compressor[CompressedText]):
    """A compressor that keeps the best units of the source and never rewrites: a method writes `score`.

    Parameters
    ----------
    unit: what is kept or dropped as a whole: "passage", "paragraph", "sentence" or "word".
    counter: counts the budget, see `ctxcomp.counting`; None is the default counter.
    """

    unit: Level = "sentence"
    counter: CounterLike = None

    def __post_init__(self) -> None:
        check_fields(self)
        FitOptions.__post_init__(self)

    @abstractmethod
    def score(self, batch: Sequence[Candidates]) -> list[Scores]:
        """The worth of each unit of each request, float64 ``[n]``: higher is kept. Nothing in ``batch`` is empty."""

    def groups(self, units: Candidates) -> NDArray[np.int64] | None:
        """Groups of units, int64 ``[n]``, that each keep the same share; None leaves it to ``allocate``."""
        return None

    def compress_batch(self, requests: Sequence[Request]) -> list[CompressedText]:
        """Compress several requests; those that fit as they are cost no scoring."""
        return [result for result, _, _ in self._compress(requests, everything=False)]

    def compress_scored(self, requests: Sequence[Request]) -> list[tuple[CompressedText, Candidates, Scores]]:
        """The same results, each with all units of its request and their scores ``[n]``, of what was dropped too."""
        return self._compress(requests, everything=True)

    def _compress(
        self, requests: Sequence[Request], *, everything: bool
    ) -> list[tuple[CompressedText, Candidates, Scores]]:
        began = time.perf_counter()
        check_requests(requests)
        counter = resolve_counter(self.counter)
        batch = [candidates(request, self.unit) for request in requests]
        tokens_in = [counter.count(render(units, np.ones(len(units), bool), self).text) for units in batch]
        budgets = [r.budget.resolve(n) for r, n in zip(requests, tokens_in, strict=True)]
        scores = self._scores(batch, tokens_in, budgets, everything)
        fitted = [
            self._fit(units, s, n, room, counter)
            for units, s, n, room in zip(batch, scores, tokens_in, budgets, strict=True)
        ]
        seconds = (time.perf_counter() - began) / max(len(requests), 1)
        results = [
            CompressedText(
                text=f.text,
                spans=f.spans,
                passages=request.passages,
                passage_texts=f.passage_texts,
                stats=Stats(n, f.tokens, seconds, counter.name, self.name),
            )
            for request, f, n in zip(requests, fitted, tokens_in, strict=True)
        ]
        return list(zip(results, batch, scores, strict=True))

    def _scores(
        self, batch: list[Candidates], tokens_in: list[int], budgets: list[int], everything: bool
    ) -> list[Scores]:
        """Scores; unless of ``everything``, only where there is something to decide, and ones elsewhere."""
        scores = [np.ones(len(units)) for units in batch]
        open_ = [
            i
            for i, units in enumerate(batch)
            if len(units)
            # Units of no tokens, control characters, fit into a budget of 0.
            and (everything or budgets[i] or self.min_score is not None)
            and (everything or not (self.keeps_all and tokens_in[i] <= budgets[i]))
        ]
        for i, fresh in zip(open_, self.score([batch[i] for i in open_]) if open_ else [], strict=True):
            if fresh.shape != (len(batch[i]),) or not np.isfinite(fresh).all():
                raise ModelError(
                    f"{self.name} gave scores of shape {fresh.shape} for {len(batch[i])} units, or not all finite: "
                    "the checkpoint is damaged or of another kind"
                )
            scores[i] = fresh.astype(np.float64)
        return scores

    def _fit(self, units: Candidates, scores: Scores, tokens_in: int, room: int, counter: TokenCounter) -> Fitted:
        if self.keeps_all and tokens_in <= room:
            everything = np.ones(len(units), bool)
            whole = render(units, everything, self)
            return Fitted(whole.text, spans_of(units, everything, scores), whole.passage_texts, tokens_in)
        return fit(units, scores, room, counter, self, self.groups(units))


def check_requests(requests: Sequence[Request]) -> None:
    """Refuse what is no sequence of requests.

    Raises
    ------
    InputError: names the first thing that is not a Request.
    """
    if not isinstance(requests, Sequence) or isinstance(requests, str):
        raise InputError(f"compress_batch takes a list of Request, got {type(requests).__name__}")
    for i, request in enumerate(requests):
        if not isinstance(request, Request):
            raise InputError(f"requests[{i}] must be a Request, got {type(request).__name__}")


def snake_case(name: str) -> str:
    """``"TokenPruner"`` -> ``"token_pruner"``."""
    return "".join("_" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))
