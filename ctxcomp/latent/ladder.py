"""The ladder: passages in full, pruned, or as single tokens, each as the budget and its worth allow."""

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

    The most relevant passages in full, as many as ``full`` of the budget takes; of the others, what ``pruner`` keeps;
    and in the room that this leaves, from the most relevant on, the vectors of the passages of which it keeps nothing.

    Parameters
    ----------
    latents: the latent method, a ``Projector`` or ``MemorySlots``; None makes a ``Projector`` of the fields below.
    pruner: a text method by name, or one that counts with the generator's tokenizer.
    full: share of the budget for passages in full, in [0, 1]; at 0 the pruner alone decides which stay whole.
    generator, weights, retriever: of the ``Projector``.
    """

    latents: LatentCompressor | None = None
    pruner: str | Compressor[CompressedText] = "sentence_pruner"
    full: float = 0.0
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
        """The rung of each passage; together they cost ``room`` at most."""
        kept = self._full(request.passages, order, room)
        kept |= self._pruned(request, kept, room)
        for i in order:
            if i not in kept and len(vectors[i]) and self._cost({**kept, i: vectors[i]}) <= room:
                kept[i] = vectors[i]
        return kept

    def _full(self, passages: Sequence[Passage], order: list[int], room: int) -> Kept:
        """The most relevant passages, as many as their share of the budget takes."""
        kept: Kept = {}
        for i in order:
            more: Kept = {**kept, i: _whole(passages[i])}
            if not passages[i].text or self._cost(more) > self.full * room:
                break
            kept = more
        return kept

    def _pruned(self, request: Request, full: Kept, room: int) -> Kept:
        """What the pruner keeps of the passages that are not in full, where it keeps anything."""
        rest = [i for i in range(len(request.passages)) if i not in full]
        given = [request.passages[i] for i in rest]
        spare = room - self._cost(full)
        for _ in range(TRIES):
            if spare <= 0 or not rest:
                break
            result = self.text.compress(request.query, given, Budget(tokens=spare))
            found: Kept = {}
            for n, i in enumerate(rest):
                spans = tuple(replace(s, passage=0) for s in result.spans or () if s.passage == n)
                if result.passage_texts[n].strip():
                    found[i] = _one(given[n], result.passage_texts[n], spans, result.stats)
            over = self._cost({**full, **found}) - room
            if over <= 0:
                return found
            spare -= over
        return {}

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
