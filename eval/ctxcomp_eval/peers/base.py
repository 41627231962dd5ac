"""What the peers share: budgets and statistics by our counter, so that keep means the same for all."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ctxcomp.candidates import candidates
from ctxcomp.compressor import Compressor, check_requests
from ctxcomp.counting import CounterLike, TokenCounter, resolve_counter
from ctxcomp.fields import check_fields
from ctxcomp.render import Layout, render
from ctxcomp.types import CompressedText, Passage, Request, Span, Stats


@dataclass(frozen=True, slots=True)
class Room:
    """One budget: in tokens of our counter, and as the share of the tokens that came in, in [0, 1]."""

    tokens: int
    share: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer made of one request; ``seconds`` are those of one call of the peer, without any search for a rate."""

    text: str
    spans: tuple[Span, ...] | None
    passage_texts: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Peer(Compressor[CompressedText]):
    """A compressor of another project.

    A peer without a hard budget may spend more than was asked; ``stats.tokens_out`` is what it spent.

    Parameters
    ----------
    counter: counts the budget and the statistics; None is the default counter.
    """

    counter: CounterLike = None

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def answers(
        self, query: str, passages: tuple[Passage, ...], rooms: Sequence[Room], counter: TokenCounter
    ) -> list[Answer]:
        """One answer per budget. No passage of ``passages`` is empty: they hold more than white space."""

    def compress_batch(self, requests: Sequence[Request]) -> list[CompressedText]:
        """Compress several requests; those that differ in their budget alone share the peer's work."""
        check_requests(requests)
        counter = resolve_counter(self.counter)
        groups: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault((request.query, tuple(map(id, request.passages))), []).append(i)
        results: dict[int, CompressedText] = {}
        for members in groups.values():
            made = self._group([requests[i] for i in members], counter)
            results.update(zip(members, made, strict=True))
        return [results[i] for i in range(len(requests))]

    def _group(self, requests: list[Request], counter: TokenCounter) -> list[CompressedText]:
        query, passages = requests[0].query, requests[0].passages
        filled = [i for i, passage in enumerate(passages) if passage.text.strip()]
        tokens_in = counter.count(whole_context(requests[0]))
        rooms = [_room(request, tokens_in) for request in requests]
        if filled:
            answers = self.answers(query, tuple(passages[i] for i in filled), rooms, counter)
        else:
            answers = [Answer("", (), (), 0.0) for _ in rooms]
        return [
            CompressedText(
                text=answer.text,
                spans=_moved(answer.spans, filled),
                passages=passages,
                passage_texts=_spread(answer.passage_texts, filled, len(passages)),
                stats=Stats(tokens_in, counter.count(answer.text), answer.seconds, counter.name, self.name),
            )
            for answer in answers
        ]


def whole_context(request: Request) -> str:
    """The uncompressed context, put together as our own methods put it together."""
    units = candidates(request, "sentence")
    return render(units, np.ones(len(units), bool), Layout()).text


def largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest number in [low, high] that fits, given that all below it do; ``low`` where none does."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _room(request: Request, tokens_in: int) -> Room:
    tokens = request.budget.resolve(tokens_in)
    share = request.budget.keep if request.budget.keep is not None else tokens / max(tokens_in, 1)
    return Room(tokens, min(float(share), 1.0))


def _moved(spans: tuple[Span, ...] | None, filled: list[int]) -> tuple[Span, ...] | None:
    return None if spans is None else tuple(Span(filled[s.passage], s.start, s.end, s.score) for s in spans)


def _spread(texts: tuple[str, ...], filled: list[int], n: int) -> tuple[str, ...]:
    left = dict(zip(filled, texts, strict=False))
    return tuple(left.get(i, "") for i in range(n))
