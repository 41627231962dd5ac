"""`demonstrations`: few-shot examples for a query, by similarity and coverage, shortened but kept as examples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ctxcomp.compressor import Compressor, Selector, check_requests
from ctxcomp.counting import CounterLike, resolve_counter
from ctxcomp.encode.options import EncoderOptions
from ctxcomp.errors import BudgetError, InputError
from ctxcomp.fields import check_fields
from ctxcomp.rewriter import as_they_are
from ctxcomp.text.bm25 import STOP_WORDS, words
from ctxcomp.text.token_pruner import TokenPruner
from ctxcomp.types import Budget, CompressedText, Passage, Request

Vectors = NDArray[np.float32]


def demonstration(input: str, output: str, *, template: str = "Q: {input}\nA: {output}", id: str = "") -> Passage:
    """An example as a passage whose output, and whatever else is not its input, is protected.

    Parameters
    ----------
    input: what is given; it may be shortened.
    output: what is to come out; it stays as it is.
    template: how the two stand together; ``{input}`` once and ``{output}`` once.

    Raises
    ------
    InputError: the template lacks a field, or names one twice.
    """
    if template.count("{input}") != 1 or template.count("{output}") != 1:
        raise InputError(f"template must hold {{input}} and {{output}} once each, got {template!r}")
    before, _, after = template.partition("{input}")
    head, tail = before.replace("{output}", output), after.replace("{output}", output)
    text = head + input + tail
    spans = [(a, b) for a, b in ((0, len(head)), (len(head) + len(input), len(text))) if a < b]
    return Passage(text, id=id, metadata={"protect": spans, "input": (len(head), len(head) + len(input))})


@dataclass(frozen=True, kw_only=True)
class Demonstrations(EncoderOptions, Compressor[CompressedText]):
    """Chooses examples for a query under a budget and shortens their inputs; an example is there whole or not at all.

    Each passage is an example, best made by `demonstration`, which says where its input is. Examples are taken one by
    one by ``similarity + coverage * (share of the query's words that no other chosen one has) - redundancy * (the
    highest similarity to a chosen one)``, as long as their protected text and ``squeeze`` of their inputs fit; then
    ``shortener`` gives each the same share of what is there. They stand in the order in which they came.

    Parameters
    ----------
    counter: counts the budget, see `ctxcomp.counting`; None is the default counter.
    shortener: shortens the inputs; None for `token_pruner`. It counts with ``counter`` and allocates by passage.
    squeeze: the share of its tokens to which an input may be shortened, in (0, 1]; 1 keeps examples whole.
    coverage, redundancy: weights of the two terms, >= 0.
    most: examples at most; 0 for no limit.

    Source
    ------
    Gao et al., "UniICL: An Efficient Unified Framework Unifying Compression, Selection, and Generation" (2024): the
    idea that what selects demonstrations also compresses them. Deviations: text is kept, not vectors; the encoder is
    not trained for it; coverage and redundancy are ours.
    """

    counter: CounterLike = None
    shortener: Selector | None = None
    squeeze: float = 0.6
    coverage: float = 0.3
    redundancy: float = 0.3
    most: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.squeeze <= 1 or self.coverage < 0 or self.redundancy < 0 or self.most < 0:
            raise InputError(
                "squeeze must be in (0, 1], coverage, redundancy and most 0 or more, got "
                f"{self.squeeze}, {self.coverage}, {self.redundancy} and {self.most}"
            )

    @property
    def extraction(self) -> Selector:
        """The shortener with this method's counter, giving every example the same share."""
        return replace(self.shortener or TokenPruner(), counter=self.counter, allocate="passage")

    def compress_batch(self, requests: Sequence[Request]) -> list[CompressedText]:
        """Choose and shorten for several requests; one pass of the encoder for all."""
        began = time.perf_counter()
        check_requests(requests)
        results, rooms = as_they_are(requests, self.counter)
        open_ = [i for i, room in enumerate(rooms) if room and self._chooses(results[i], room)]
        orders = self._orders([requests[i] for i in open_])
        for i, order in zip(open_, orders, strict=True):
            tokens_in = results[i].stats.tokens_in
            results[i] = self._filled(requests[i], order, rooms[i]).with_stats(tokens_in=tokens_in)
        seconds = (time.perf_counter() - began) / max(len(requests), 1)
        return [result.with_stats(seconds=seconds, method=self.name) for result in results]

    def _chooses(self, plain: CompressedText, room: int) -> bool:
        examples = sum(bool(passage.text.strip()) for passage in plain.passages)
        return plain.stats.tokens_in > room or 0 < self.most < examples

    def _orders(self, requests: Sequence[Request]) -> list[list[int]]:
        """For each request its examples, best first."""
        texts = dict.fromkeys(text for r in requests for text in (r.query, *map(_input, r.passages)) if text.strip())
        embedded = self.load_encoder().embed(list(texts)) if texts else ()
        vectors = dict(zip(texts, embedded, strict=True))
        return [self._order(request, vectors) for request in requests]

    def _order(self, request: Request, vectors: dict[str, Vectors]) -> list[int]:
        left = [i for i, passage in enumerate(request.passages) if _input(passage).strip()]
        if not left:
            return []
        own = {i: vectors[_input(request.passages[i])] for i in left}
        query = vectors[request.query] if request.query.strip() else np.mean(list(own.values()), axis=0)
        asked = set(words(request.query)) - STOP_WORDS
        held = {i: asked.intersection(words(request.passages[i].text)) for i in left}
        open_, nearest = set(asked), dict.fromkeys(left, 0.0)
        order: list[int] = []
        while left:
            gain = {
                i: float(own[i] @ query)
                + self.coverage * len(held[i] & open_) / max(len(asked), 1)
                - self.redundancy * nearest[i]
                for i in left
            }
            best = max(left, key=lambda i: (gain[i], -i))
            order.append(best)
            left.remove(best)
            open_ -= held[best]
            nearest |= {i: max(nearest[i], float(own[i] @ own[best])) for i in left}
        return order

    def _filled(self, request: Request, order: Sequence[int], room: int) -> CompressedText:
        """The most examples that fit, with what the budget holds of their inputs."""
        counter = resolve_counter(self.counter)
        chosen: list[int] = []
        spent = 0.0
        for i in order[: self.most or None]:
            passage = request.passages[i]
            whole, part = counter.count_batch([passage.text, _input(passage)])
            cost = whole - (1 - self.squeeze) * part + 1
            if spent + cost <= room:
                spent += cost
                chosen.append(i)
        while chosen:
            try:
                return self._shortened(request, chosen, room)
            except BudgetError:
                chosen.pop()
        return self._shortened(request, (), room)

    def _shortened(self, request: Request, chosen: Sequence[int], room: int) -> CompressedText:
        left = [p if i in chosen else replace(p, text="", metadata={}) for i, p in enumerate(request.passages)]
        result = self.extraction.compress(request.query, left, Budget(tokens=room))
        note = f"{len(chosen)} of {len(request.passages)} examples"
        if any(not _has_input(result, i) for i in chosen):
            raise BudgetError(f"{note} do not fit into {room} tokens")
        return replace(result, passages=request.passages).with_stats(notes=(note,))


def _has_input(result: CompressedText, i: int) -> bool:
    """Whether something of an example's input is left."""
    passage = result.passages[i]
    start, end = _span(passage)
    inside = (s for s in result.spans or () if s.passage == i and s.start < end and s.end > start)
    return not passage.text[start:end].strip() or any(inside)


def _input(passage: Passage) -> str:
    return passage.text[slice(*_span(passage))]


def _span(passage: Passage) -> tuple[int, int]:
    """Where an example's input is: what its metadata says, else all of it."""
    span = passage.metadata.get("input", (0, len(passage.text)))
    try:
        start, end = (int(n) for n in span)
    except (TypeError, ValueError):
        start, end = -1, -1
    if not 0 <= start <= end <= len(passage.text):
        raise InputError(f"Passage.metadata['input'] must be a [start, end] pair inside the text, got {span!r:.100}")
    return start, end
