"""`sheets`: passages that are tables, or hold some, compressed as tables."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ctxcomp.candidates import candidates
from ctxcomp.compressor import Compressor, check_requests
from ctxcomp.counting import CounterLike, TokenCounter, resolve_counter
from ctxcomp.errors import BudgetError, InputError
from ctxcomp.fields import check_fields
from ctxcomp.fit import FitOptions
from ctxcomp.registry import DEFAULT_METHOD, load
from ctxcomp.render import render
from ctxcomp.tables.compress import compress_sheet
from ctxcomp.tables.grid import Sheet
from ctxcomp.tables.passages import Segment, segments
from ctxcomp.text.bm25 import STOP_WORDS, words
from ctxcomp.types import Budget, CompressedText, Passage, Request, Stats

SEPARATOR = "\n\n"
ROUNDS = 8
"""How often a text that came out too long is made again with less room."""
LEAST = 0.1
"""What a part without a word of the question weighs, where one with all of them weighs 1.1."""


@dataclass(frozen=True, kw_only=True)
class Sheets(Compressor[CompressedText]):
    """Compresses tables as tables (SheetCompressor) and hands everything else to a text method.

    A table is a passage with ``metadata["sheet"]`` (from `read_workbook`), or a Markdown, HTML or CSV table in a
    passage's text. Where nothing is a table, or everything fits, the result is the text method's own, with its spans;
    where a table was written anew the result has no spans, since its text was generated. Tables and prose share the
    budget by their size and by how many words of the query they hold.

    Parameters
    ----------
    counter: counts the budget, see `ctxcomp.counting`; None is the default counter.
    text_method: what passages without tables, and prose around tables, are compressed with: a name that `load` knows.
    k: rows and columns this near to a structural anchor go last, >= 0.
    aggregate: number formats and types may stand for values, for questions about where values are, not what they are.

    Source
    ------
    Tian et al., "SpreadsheetLLM" (2024), see `compress_sheet`. Ours: tables inside passages, the shared budget.
    """

    counter: CounterLike = None
    text_method: str = DEFAULT_METHOD
    k: int = 4
    aggregate: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.k < 0:
            raise InputError(f"k must be 0 or more, got {self.k}")

    @cached_property
    def inner(self) -> Compressor[CompressedText]:
        """The text method."""
        return load(self.text_method, counter=self.counter)

    def weights_hash(self) -> str:
        """What the text method's results depend on besides its settings; "" for nothing."""
        hashed = getattr(self.inner, "weights_hash", None)
        return str(hashed()) if hashed is not None else ""

    def compress_batch(self, requests: Sequence[Request]) -> list[CompressedText]:
        """Compress several requests; those without a table that must shrink go to the text method together."""
        began = time.perf_counter()
        check_requests(requests)
        counter = resolve_counter(self.counter)
        work = [_Work(request, counter, self) for request in requests]
        plain = [i for i, one in enumerate(work) if one.is_plain]
        results: dict[int, CompressedText] = dict(
            zip(plain, self.inner.compress_batch([requests[i] for i in plain]) if plain else [], strict=True)
        )
        for i, one in enumerate(work):
            if i not in results:
                results[i] = one.result()
        seconds = (time.perf_counter() - began) / max(len(requests), 1)
        return [results[i].with_stats(method=self.name, seconds=seconds) for i in range(len(requests))]


@dataclass(frozen=True, eq=False)
class _Part:
    """A segment of a passage on its way into the budget."""

    passage: int
    segment: Segment
    text: str
    tokens: int
    weight: float

    @property
    def sheet(self) -> Sheet | None:
        return self.segment.sheet


class _Work:
    """One request."""

    def __init__(self, request: Request, counter: TokenCounter, options: Sheets) -> None:
        self.request, self.counter, self.options = request, counter, options
        units = candidates(request, "passage")
        self.tokens_in = counter.count(render(units, np.ones(len(units), bool), FitOptions()).text)
        self.budget = request.budget.resolve(self.tokens_in)
        self.found = [segments(passage) for passage in request.passages] if self.tokens_in > self.budget > 0 else []
        self.is_plain = not any(part.sheet is not None for parts in self.found for part in parts)

    def result(self) -> CompressedText:
        """The compressed request, one that holds tables."""
        parts, room = self._parts(), self.budget
        for _ in range(ROUNDS):
            texts = self._texts(parts, max(room, 0))
            text, passage_texts = self._assembled(parts, texts)
            tokens = self.counter.count(text)
            if tokens <= self.budget:
                break
            room -= tokens - self.budget
        worst_first = sorted(range(len(parts)), key=lambda i: (parts[i].weight, -i))
        while tokens > self.budget:
            texts[worst_first.pop(0)] = ""
            text, passage_texts = self._assembled(parts, texts)
            tokens = self.counter.count(text)
        return CompressedText(
            text=text,
            spans=None if text else (),
            passages=self.request.passages,
            passage_texts=passage_texts,
            stats=Stats(self.tokens_in, tokens, 0.0, self.counter.name, self.options.name),
        )

    def _parts(self) -> list[_Part]:
        wanted = {word for word in words(self.request.query) if word not in STOP_WORDS}
        parts = []
        for p, found in enumerate(self.found):
            for segment in found:
                text = self.request.passages[p].text[segment.start : segment.end]
                share = len(wanted.intersection(words(text))) / len(wanted) if wanted else 1.0
                parts.append(_Part(p, segment, text, self.counter.count(text), LEAST + share**2))
        return parts

    def _texts(self, parts: list[_Part], room: int) -> list[str]:
        """What is left of each part: prose in its share, then tables by their worth with all that is left."""
        shares = _shares([part.tokens for part in parts], [part.weight for part in parts], room)
        joint = self.counter.count(SEPARATOR)
        texts = [""] * len(parts)
        prose = [i for i, part in enumerate(parts) if part.sheet is None]
        tables = [i for i, part in enumerate(parts) if part.sheet is not None]
        if prose:
            share = sum(shares[i] for i in prose)
            for i, text in zip(prose, self._prose([parts[i] for i in prose], share, room), strict=True):
                texts[i] = text
        spare = room - sum(shares[i] for i in tables) - sum(self._cost(text, joint) for text in texts)
        for i in sorted(tables, key=lambda i: (-parts[i].weight, i)):
            texts[i] = self._table(parts[i], shares[i] - joint + spare)
            spare += shares[i] - self._cost(texts[i], joint)
        if spare > joint:
            # What the last ones could not use goes to the first.
            first = max(tables, key=lambda i: (parts[i].weight, -i))
            texts[first] = self._table(parts[first], self.counter.count(texts[first]) + spare)
        return texts

    def _cost(self, text: str, joint: int) -> int:
        return self.counter.count(text) + joint if text else 0

    def _table(self, part: _Part, tokens: int) -> str:
        if part.sheet is None or tokens <= 0:
            return ""
        try:
            return compress_sheet(
                part.sheet, self.request.query, Budget(tokens=tokens), counter=self.counter, k=self.options.k,
                aggregate=self.options.aggregate, remap=False, addressed=part.segment.addressed,
            ).text  # fmt: skip
        except BudgetError:
            return ""

    def _prose(self, parts: list[_Part], share: int, room: int) -> tuple[str, ...]:
        """What the text method leaves of the prose; protected text may take more than its share."""
        passages = [_cut(self.request.passages[part.passage], part.segment) for part in parts]
        compress = self.options.inner.compress
        try:
            return compress(self.request.query, passages, Budget(tokens=share)).passage_texts
        except BudgetError:
            return compress(self.request.query, passages, Budget(tokens=room)).passage_texts

    def _assembled(self, parts: list[_Part], texts: list[str]) -> tuple[str, tuple[str, ...]]:
        own: list[list[str]] = [[] for _ in self.request.passages]
        for part, text in zip(parts, texts, strict=True):
            if text:
                own[part.passage].append(text)
        passage_texts = tuple(SEPARATOR.join(texts) for texts in own)
        return SEPARATOR.join(text for text in passage_texts if text), passage_texts


def _shares(tokens: list[int], weights: list[float], room: int) -> list[int]:
    """Tokens for each part, in proportion to its weight and the root of its size: a short text must not go under.

    What one does not need goes to the others.
    """
    shares = [0] * len(tokens)
    sizes = [math.sqrt(n) * weight for n, weight in zip(tokens, weights, strict=True)]
    open_ = [i for i, n in enumerate(tokens) if n]
    while open_:
        total = sum(sizes[i] for i in open_)
        given = {i: int(room * sizes[i] / total) for i in open_}
        full = [i for i in open_ if given[i] >= tokens[i]]
        for i in full or open_:
            shares[i] = min(given[i], tokens[i])
            room -= shares[i]
        open_ = [i for i in open_ if i not in full] if full else []
    return shares


def _cut(passage: Passage, segment: Segment) -> Passage:
    """The prose of a segment as a passage, protected spans moved with it."""
    text = passage.text[segment.start : segment.end]
    protected: Any = passage.metadata.get("protect", ())
    try:
        moved = [
            (max(a, segment.start) - segment.start, min(b, segment.end) - segment.start)
            for a, b in protected
            if a < segment.end and segment.start < b
        ]
    except (TypeError, ValueError):
        moved = protected  # malformed: the text method says how
    return replace(passage, text=text, metadata={**passage.metadata, "protect": moved})
