"""What all latent methods share: the generator they are for, the budget in vectors, and vectors kept on disk."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ctxcomp.compressor import Compressor, check_requests
from ctxcomp.counting import CounterLike, TokenCounter, resolve_counter
from ctxcomp.errors import InputError
from ctxcomp.fields import check_fields
from ctxcomp.generate.prompts import context_text
from ctxcomp.latent.binding import generator_id, local_generator
from ctxcomp.latent.store import Folder, Vectors, embedding_of, facts_of
from ctxcomp.types import CompressedLatents, Passage, Request, Stats


@dataclass(frozen=True, kw_only=True)
class LatentCompressor(Compressor[CompressedLatents]):
    """Turns each passage into vectors for one generator; where not all fit, the best passages have theirs.

    Parameters
    ----------
    generator: a ``ctxcomp.generate.Generator``, or a checkpoint directory.
    weights: what the method has learnt, as ``python -m ctxcomp_eval.latent.train`` writes it.
    store: a folder that keeps each passage's vectors; None keeps none.
    """

    generator: Any = None
    weights: str | Path = ""
    store: str | Path | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "generator", local_generator(self.generator, self.name))
        if not str(self.weights):
            raise InputError(
                f"{self.name} needs weights=, what it has learnt for this generator: "
                f"train them with `python -m ctxcomp_eval.latent.train {self.name}`"
            )

    @abstractmethod
    def encode(self, passages: Sequence[Passage]) -> list[Vectors]:
        """The vectors of each passage, float32 ``[n, hidden]``; none for an empty one."""

    @abstractmethod
    def made_by(self) -> dict[str, str]:
        """What decides the vectors besides passage and generator: weights, retriever, options."""

    def relevance(self, query: str, passages: Sequence[Passage]) -> list[float]:
        """The worth of each passage: the retriever's scores where all have one, else their order."""
        scores = [passage.score for passage in passages]
        known = [score for score in scores if score is not None]
        return known if len(known) == len(passages) else [-float(i) for i in range(len(passages))]

    @property
    def counter(self) -> CounterLike:
        """The generator's own tokenizer."""
        return tokenizer_counter(self.generator)

    def vectors(self, passages: Sequence[Passage]) -> list[Vectors]:
        """As ``encode``, from the store where they are there; equal passages are encoded once.

        Raises
        ------
        CacheError: the store holds vectors for another generator, or cannot be written.
        """
        folder = self._folder()
        found = [folder.read(passage) if folder is not None else None for passage in passages]
        missing = {_key(p): p for p, known in zip(passages, found, strict=True) if known is None}
        fresh = dict(zip(missing, self.encode(list(missing.values())) if missing else [], strict=True))
        if folder is not None:
            for key, passage in missing.items():
                folder.write(passage, fresh[key])
        return [fresh[_key(p)] if known is None else known for p, known in zip(passages, found, strict=True)]

    def compress_batch(self, requests: Sequence[Request]) -> list[CompressedLatents]:
        """Compress several requests, their passages encoded together."""
        began = time.perf_counter()
        check_requests(requests)
        flat = iter(self.vectors([passage for request in requests for passage in request.passages]))
        counter = tokenizer_counter(self.generator)
        results = [self._fitted(request, [next(flat) for _ in request.passages], counter) for request in requests]
        seconds = (time.perf_counter() - began) / max(len(requests), 1)
        return [replace(result, stats=replace(result.stats, seconds=seconds)) for result in results]

    def _fitted(self, request: Request, vectors: list[Vectors], counter: TokenCounter) -> CompressedLatents:
        """What is kept under the budget: the best passages' vectors, from each passage's beginning."""
        tokens_in = counter.count(context_text(request.passages)) if request.passages else 0
        room = request.budget.resolve(tokens_in)
        kept = [v[:0] for v in vectors]
        for i in ranking(self.relevance(request.query, request.passages)):
            kept[i] = vectors[i][:room]
            room -= len(kept[i])
        sources = [i for i, v in enumerate(kept) for _ in range(len(v))]
        stats = Stats(tokens_in, len(sources), 0.0, counter.name, self.name)
        return latents(self.generator, request, kept, sources, stats)

    def _folder(self) -> Folder | None:
        if self.store is None:
            return None
        facts = facts_of(method=self.name, **self.made_by(), generator=generator_id(self.generator.model))
        return Folder(self.store, facts)


def latents(
    generator: Any, request: Request, vectors: Sequence[Vectors], sources: Sequence[int], stats: Stats
) -> CompressedLatents:
    """Vectors of several passages as one context."""
    hidden = generator.model.get_input_embeddings().weight.shape[1]
    return CompressedLatents(
        vectors=np.concatenate([np.zeros((0, hidden), np.float32), *vectors]),
        generator=generator_id(generator.model),
        sources=tuple(sources),
        passages=request.passages,
        stats=stats,
    )


def ranking(relevance: Sequence[float]) -> list[int]:
    """Indices from the most relevant to the least; the earlier of equals first."""
    return sorted(range(len(relevance)), key=lambda i: -relevance[i])


def tokenizer_counter(generator: Any) -> TokenCounter:
    """Counts with the generator's tokenizer."""
    return resolve_counter(generator.tokenizer)


def _key(passage: Passage) -> tuple[str, bytes]:
    own = embedding_of(passage)
    return passage.text, b"" if own is None else own.tobytes()
