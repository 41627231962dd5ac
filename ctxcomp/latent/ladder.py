"""The ladder: the best passages in full, the next ones pruned, the tail as single tokens, under one budget."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from ctxcomp.compressor import Compressor, check_requests
from ctxcomp.counting import CounterLike, resolve_counter
from ctxcomp.errors import InputError
from ctxcomp.fields import check_fields
from ctxcomp.generate.prompts import context_text
from ctxcomp.latent.base import LatentCompressor, latents, ranking
from ctxcomp.latent.projector import Projector
from ctxcomp.latent.store import Vectors
from ctxcomp.registry import load
from ctxcomp.types import Budget, CompressedLatents, CompressedMixed, CompressedText, Passage, Request, Span, Stats

TRIES = 4
"""Times that the pruner gets less room because separators took more than was set aside."""
GAP = "\n\n"
Kept = dict[int, CompressedText | Vectors]
"""What stands for each passage, by its index: its text, pruned or not, or its vectors."""


@dataclass(frozen=True, kw_only=True)
class Ladder(Compressor[CompressedMixed]):
    """A context of text and vectors, passage by passage, counted together in the generator's tokens.

    From the most relevant passage on: as many in full as ``full`` of the budget takes; of the others, what ``pruner``
    keeps; and where it keeps nothing, the passage's vectors.

    Parameters
    ----------
    latents: the latent method, a ``Projector`` or ``MemorySlots``; None makes a ``Projector`` of the fields below.
    pruner: a text method by name, or one that counts with the generator's tokenizer.
    full: share of the budget for passages in full, in [0, 1].
    generator, weights, retriever: of the ``Projector``.
    """

    latents: LatentCompressor | None = None
    pruner: str | Compressor[CompressedText] = "sentence_pruner"
    full: float = 0.5
    generator: Any = None
    weights: Any = ""
    retriever: Any = "minilm"

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.full <= 1:
            raise InputError(f"full must be in [0, 1], got {self.full}")
        if self.latents is None:
            made = Projector(generator=self.generator, weights=self.weights, retriever=self.retriever)
            object.__setattr__(self, "latents", made)
        if isinstance(self.pruner, str):
            object.__setattr__(self, "pruner", load(self.pruner, counter=self.latent.counter))
        elif resolve_counter(getattr(self.pruner, "counter", None)).name != resolve_counter(self.counter).name:
            raise InputError("the pruner must count with the generator's tokenizer: give its name, or counter=")

    @property
    def latent(self) -> LatentCompressor:
        """The latent method."""
        if self.latents is None:
            raise InputError("a Ladder needs latents=, or generator= and weights=")
        return self.latents

    @property
    def counter(self) -> CounterLike:
        """The generator's own tokenizer."""
        return self.latent.counter

    def compress_batch(self, requests: Sequence[Request]) -> list[CompressedMixed]:
        """Compress several requests, their passages encoded together."""
        check_requests(requests)
        began = time.perf_counter()
        flat = iter(self.latent.vectors([p for request in requests for p in request.passages]))
        shared = (time.perf_counter() - began) / max(len(requests), 1)
        return [self._climb(request, [next(flat) for _ in request.passages], shared) for request in requests]

    def _climb(self, request: Request, vectors: list[Vectors], seconds: float) -> CompressedMixed:
        began = time.perf_counter()
        passages, counter = request.passages, resolve_counter(self.counter)
        tokens_in = counter.count(context_text(passages)) if passages else 0
        room = request.budget.resolve(tokens_in)
        if tokens_in <= room:
            kept: Kept = {i: _whole(p) for i, p in enumerate(passages) if p.text}
        else:
            order = ranking(self.latent.relevance(request.query, passages))
            kept = self._kept(request, vectors, order, room)
            for i in order[::-1]:  # separators of many small pieces may still be too much: the least relevant go
                if self._cost(kept) <= room:
                    break
                kept.pop(i, None)
        seconds += time.perf_counter() - began
        return CompressedMixed(
            parts=self._parts(request, kept),
            stats=Stats(tokens_in, self._cost(kept), seconds, counter.name, f"ladder({self.text.name})"),
        )

    @property
    def text(self) -> Compressor[CompressedText]:
        """The pruner, loaded."""
        if isinstance(self.pruner, str):
            raise InputError("the pruner is not loaded")
        return self.pruner

    def _kept(self, request: Request, vectors: list[Vectors], order: list[int], room: int) -> Kept:
        """The rung of each passage; its cost is near ``room``, and over it only by separators."""
        passages = request.passages
        kept: Kept = {}
        left = room
        for i in order:  # every passage has its vectors first: text gets what they leave
            if 0 < len(vectors[i]) <= left:
                kept[i] = vectors[i]
                left -= len(vectors[i])
        for n, i in enumerate(order):
            more: Kept = {**kept, i: _whole(passages[i])}
            if not passages[i].text or self._cost({j: more[j] for j in order[: n + 1] if j in more}) > self.full * room:
                break
            if self._cost(more) > room:
                break
            kept = more
        rest = [i for i in range(len(passages)) if not isinstance(kept.get(i), CompressedText)]
        spare = room - self._cost(kept)
        for _ in range(TRIES):
            if spare <= 0 or not rest:
                break
            pruned = self._pruned(request, rest, spare)
            over = self._cost({**kept, **pruned}) - room
            if over <= 0:
                return {**kept, **pruned}
            spare -= over
        return kept

    def _pruned(self, request: Request, rest: list[int], tokens: int) -> Kept:
        """What the pruner keeps of some passages; nothing for those of which it keeps nothing."""
        given = [request.passages[i] for i in rest]
        result = self.text.compress(request.query, given, Budget(tokens=tokens))
        found: Kept = {}
        for n, i in enumerate(rest):
            text = result.passage_texts[n]
            spans = tuple(replace(s, passage=0) for s in result.spans or () if s.passage == n)
            if text.strip():
                found[i] = _one(given[n], text, spans, result.stats)
        return found

    def _cost(self, kept: Kept) -> int:
        """Positions in the prompt: tokens of the texts and of what stands between the parts, and vectors."""
        counter = resolve_counter(self.counter)
        total = 0
        runs = [list(run) for _, run in groupby(sorted(kept), key=lambda i: isinstance(kept[i], CompressedText))]
        for n, run in enumerate(runs):
            texts, vectors = _sorted({i: kept[i] for i in run})
            if texts:
                before, behind = GAP if n else "", GAP if n < len(runs) - 1 else ""
                total += counter.count(before + GAP.join(one.text for one in texts.values()) + behind)
            total += sum(map(len, vectors.values()))
        return total

    def _parts(self, request: Request, kept: Kept) -> tuple[CompressedText | CompressedLatents, ...]:
        """Runs of passages of one kind, in the order of the passages."""
        parts: list[CompressedText | CompressedLatents] = []
        for _, run in groupby(sorted(kept), key=lambda i: isinstance(kept[i], CompressedText)):
            only = {i: kept[i] for i in run}
            stats = Stats(0, self._cost(only), 0.0, resolve_counter(self.counter).name, self.name)
            texts, vectors = _sorted(only)
            if texts:
                parts.append(_joined(request.passages, texts, stats))
            else:
                sources = [i for i, v in vectors.items() for _ in range(len(v))]
                parts.append(latents(self.latent.generator, request, list(vectors.values()), sources, stats))
        return tuple(parts)


def _sorted(kept: Kept) -> tuple[dict[int, CompressedText], dict[int, Vectors]]:
    """The passages that are text, and those that are vectors."""
    texts = {i: value for i, value in kept.items() if isinstance(value, CompressedText)}
    return texts, {i: value for i, value in kept.items() if not isinstance(value, CompressedText)}


def _whole(passage: Passage) -> CompressedText:
    """A passage in full."""
    return _one(passage, passage.text, (Span(0, 0, len(passage.text)),), Stats(0, 0, 0.0, "", "full"))


def _one(passage: Passage, text: str, spans: tuple[Span, ...], stats: Stats) -> CompressedText:
    return CompressedText(text=text, spans=spans, passages=(passage,), passage_texts=(text,), stats=stats)


def _joined(passages: tuple[Passage, ...], texts: dict[int, CompressedText], stats: Stats) -> CompressedText:
    """One text of several passages' texts; spans and texts count through all passages of the request."""
    return CompressedText(
        text=GAP.join(one.text for one in texts.values()),
        spans=tuple(replace(span, passage=i) for i, one in texts.items() for span in one.spans or ()),
        passages=passages,
        passage_texts=tuple(texts[i].text if i in texts else "" for i in range(len(passages))),
        stats=stats,
    )
