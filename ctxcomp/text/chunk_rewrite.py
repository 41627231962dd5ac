"""`chunk_rewrite`: chunks by meaning, each shortened by what it is worth, and key terms put back (SCOPE-style)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxcomp.candidates import Candidates, candidates
from ctxcomp.compressor import Compressor
from ctxcomp.counting import resolve_counter
from ctxcomp.encode.options import EncoderOptions
from ctxcomp.errors import InputError
from ctxcomp.fit import FitOptions, fit
from ctxcomp.rewriter import Draft, Job, Rewriter
from ctxcomp.text.bm25 import words
from ctxcomp.text.chunks import outliers, shares, split
from ctxcomp.text.faithfulness import fold
from ctxcomp.text.keywords import guarded, top_terms
from ctxcomp.types import Budget, CompressedText, Passage, Request, Stats

_TEXT, _TERM = 2.0, 1.0
"""Worth of a word that its chunk kept, and of a key term that is put back, when both do not fit."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """``passages[passage].text[start:end]``, and what it is worth."""

    passage: int
    start: int
    end: int
    tokens: int
    relevance: float


@dataclass(frozen=True, kw_only=True)
class ChunkRewrite(EncoderOptions, Rewriter):
    """Cuts passages into chunks by meaning, shortens each by its own keep, and restores what must not be missing.

    A chunk's share of the budget grows with its length and ``softmax(relevance / temperature)``; a chunk that is unlike
    all others and not about the query is squeezed to ``floor``. With an extractive ``writer`` the result is made of
    slices of the source and has spans; the restored key terms are slices too.

    Parameters
    ----------
    writer: shortens each chunk, a selector or a rewriter such as `summarize`; None for ``extractor``.
    spread: standard deviations under the mean at which the cosine of neighbouring sentences ends a chunk, and that of
        a chunk with the others makes an outlier.
    least, most: tokens of a chunk: smaller ones join a neighbour, larger ones are cut.
    temperature: how evenly the budget is shared out: small favours the relevant chunks. > 0.
    floor: the share of every chunk that is kept whatever its relevance, in [0, 1].
    reserve: the share of the budget that is held back for key terms, in [0, 1); what they leave goes unused.
    terms: key terms of each chunk besides its names, numbers and negations, by tf-idf; >= 0.

    Source
    ------
    "SCOPE" (arXiv 2508.15813), of which no code and no formulas are known: SCOPE-style, no parity is claimed.
    """

    writer: Compressor[CompressedText] | None = None
    spread: float = 1.0
    least: int = 24
    most: int = 160
    # 100 questions of span_dev, answer retention at keep .5: temperature .1 .854, .05 .885, .3 .875; at .05 and a
    # reserve of 0 .906 (sentences without chunks .896, random ones .573).
    temperature: float = 0.05
    floor: float = 0.0
    reserve: float = 0.05
    terms: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0 or not 0 <= self.floor <= 1 or not 0 <= self.reserve < 1:
            raise InputError(
                "temperature must be > 0, floor in [0, 1] and reserve in [0, 1), got "
                f"{self.temperature}, {self.floor} and {self.reserve}"
            )
        if self.spread < 0 or self.terms < 0 or not 0 < self.least <= self.most:
            raise InputError(
                "spread and terms must be 0 or more and 0 < least <= most, got "
                f"{self.spread}, {self.terms}, {self.least} and {self.most}"
            )

    def write(self, jobs: Sequence[Job]) -> list[Draft | CompressedText]:
        """Each request's chunks, shortened in one call of the writer."""
        batch = [candidates(job.request, "sentence") for job in jobs]
        chunks = self._chunks(batch)
        rooms = [self._rooms(job, own) for job, own in zip(jobs, chunks, strict=True)]
        requests = [
            Request(units.query, (_passage(units, chunk),), Budget(tokens=int(room)))
            for units, own, given in zip(batch, chunks, rooms, strict=True)
            for chunk, room in zip(own, given, strict=True)
        ]
        found = iter((self.writer or self.extraction).compress_batch(requests))
        return [self._assembled(job, own, [next(found) for _ in own]) for job, own in zip(jobs, chunks, strict=True)]

    def _chunks(self, batch: Sequence[Candidates]) -> list[list[Chunk]]:
        counter, encoder = resolve_counter(self.counter), self.load_encoder()
        texts = dict.fromkeys(text for units in batch for text in (*units.texts, units.query) if text.strip())
        vectors = dict(zip(texts, encoder.embed(list(texts)), strict=True))
        found = []
        for units in batch:
            own = np.stack([vectors[text] for text in units.texts])
            sizes = np.array(counter.count_batch(units.texts), np.int64)
            parts = [
                slice(mine.start + part.start, mine.start + part.stop)
                for mine in map(units.units_of, range(len(units.passages)))
                for part in split(own[mine], sizes[mine].tolist(), self.spread, self.least, self.most)
            ]
            query = vectors[units.query] if units.query.strip() else own.mean(axis=0)
            worth = self._relevance(own, sizes, parts, query)
            found.append([_chunk(units, part, sizes, r) for part, r in zip(parts, worth, strict=True)])
        return found

    def _relevance(
        self, vectors: NDArray[np.float32], sizes: NDArray[np.int64], parts: Sequence[slice], query: NDArray[np.float32]
    ) -> list[float]:
        """The cosine of each chunk with the query, averaged with that of its best sentence; -inf for outliers."""
        means = np.stack([np.average(vectors[part], axis=0, weights=np.maximum(sizes[part], 1)) for part in parts])
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        best = np.array([(vectors[part] @ query).max() for part in parts])
        relevance = (means @ query + best) / 2
        foreign = outliers(means.astype(np.float32), self.spread) & (relevance < np.median(relevance))
        return [float(r) for r in np.where(foreign, -np.inf, relevance)]

    def _rooms(self, job: Job, chunks: Sequence[Chunk]) -> list[int]:
        relevance = np.array([chunk.relevance for chunk in chunks])
        tokens = int(job.tokens * (1 - self.reserve))
        given = shares(relevance, [chunk.tokens for chunk in chunks], tokens, self.temperature, self.floor)
        return [int(n) for n in given]

    def _assembled(
        self, job: Job, chunks: Sequence[Chunk], results: Sequence[CompressedText]
    ) -> Draft | CompressedText:
        units = candidates(job.request, "word")
        kept = np.zeros(len(units), bool)
        for chunk, result in zip(chunks, results, strict=True):
            mine = units.units_of(chunk.passage)
            for span in result.spans or ():
                inside = units.end[mine] > chunk.start + span.start
                kept[mine] |= inside & (units.start[mine] < chunk.start + span.end)
        missing = self._missing(units, chunks, results)
        if any(result.spans is None for result in results):
            return self._joined(job, units, chunks, results, missing)
        scores = np.where(kept, _TEXT, np.where(missing, _TERM, 0.0))
        counter = resolve_counter(self.counter)
        fitted = fit(units, scores, job.tokens, counter, FitOptions(min_score=_TERM))
        restored = sum(span.score == _TERM for span in fitted.spans)
        return CompressedText(
            text=fitted.text,
            spans=fitted.spans,
            passages=job.passages,
            passage_texts=fitted.passage_texts,
            stats=Stats(0, fitted.tokens, 0.0, counter.name, "", notes=_note(restored)),
        )

    def _missing(
        self, units: Candidates, chunks: Sequence[Chunk], results: Sequence[CompressedText]
    ) -> NDArray[np.bool_]:
        """The first occurrence of each name, number, negation and top term that no chunk's text has any more."""
        text = "\n".join(result.text for result in results)
        present = set(words(text)) | {fold(word) for word in text.split()}
        sources = [units.passages[c.passage].text[c.start : c.end] for c in chunks]
        wanted = {term for own in top_terms(sources, self.terms) for term in own} if self.terms else set()
        key = guarded(units)
        missing = np.zeros(len(units), bool)
        for i, unit in enumerate(units.texts):
            terms = words(unit)
            if (key[i] or wanted.intersection(terms)) and terms and not present.issuperset(terms):
                missing[i] = True
                present.update(terms)
        return missing

    def _joined(
        self,
        job: Job,
        units: Candidates,
        chunks: Sequence[Chunk],
        results: Sequence[CompressedText],
        missing: NDArray[np.bool_],
    ) -> Draft:
        """Generated texts in a row, and after each, as far as they fit, the key terms that its chunk has lost."""
        counter = resolve_counter(self.counter)
        texts = [result.text for result in results]
        restored = 0
        for i, chunk in enumerate(chunks):
            inside = (units.passage == chunk.passage) & (units.start >= chunk.start) & (units.end <= chunk.end)
            terms = [units.texts[j].strip(" ,.;:()[]\"'") for j in np.flatnonzero(missing & inside).tolist()]
            for term in terms if texts[i] else ():
                longer = f"{texts[i][:-2]}, {term}.)" if texts[i].endswith(".)") else f"{texts[i]} (Also: {term}.)"
                trial = [*texts[:i], longer, *texts[i + 1 :]]
                if counter.count(_lines(chunks, trial)) <= job.tokens:
                    texts, restored = trial, restored + 1
        own = tuple(dict.fromkeys(note for result in results for note in result.stats.notes))
        return Draft(_lines(chunks, texts), (*own, *_note(restored)))


def _note(restored: int) -> tuple[str, ...]:
    return (f"{restored} key terms put back",) if restored else ()


def _lines(chunks: Sequence[Chunk], texts: Sequence[str]) -> str:
    """Chunks of one passage in a row, passages apart."""
    made = ""
    previous = None
    for chunk, text in zip(chunks, texts, strict=True):
        if text:
            made += ("" if not made else " " if chunk.passage == previous else "\n\n") + text
            previous = chunk.passage
    return made


def _chunk(units: Candidates, part: slice, sizes: NDArray[np.int64], relevance: float) -> Chunk:
    start, end = int(units.start[part][0]), int(units.end[part][-1])
    return Chunk(int(units.passage[part.start]), start, end, int(sizes[part].sum()), relevance)


def _passage(units: Candidates, chunk: Chunk) -> Passage:
    source = units.passages[chunk.passage]
    return Passage(source.text[chunk.start : chunk.end], id=source.id, title=source.title, score=source.score)
