"""`token_pruner`: drop words that a token classifier finds dispensable, whatever the query (LLMLingua-2)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ctxcomp.candidates import Candidates
from ctxcomp.compressor import Scores, Selector
from ctxcomp.encode.options import EncoderOptions
from ctxcomp.encode.tokens import part_of_tokens
from ctxcomp.errors import InputError
from ctxcomp.segment import Level
from ctxcomp.text.clauses import main_clauses
from ctxcomp.text.phrases import whole_phrases

DEFAULT_HEAD = Path(__file__).parent.parent / "weights" / "token_head.safetensors"
SHARED_HEAD = DEFAULT_HEAD.with_name("sentence_pruner.safetensors")
CHUNK_TOKENS = 510
"""Tokens of the paper's chunks: 512 positions less two specials."""


@dataclass(frozen=True, kw_only=True)
class TokenPruner(EncoderOptions, Selector):
    r"""Keeps the words with the highest probability of being needed; the query plays no part.

    Words are sliced from the source, so spacing, newlines and scripts without spaces survive. Code, tables, JSON and
    URLs stay whole.

    Parameters
    ----------
    model: a BERT- or XLM-R-like checkpoint; "minilm" comes with a head of our own.
    head: path of a head file for ``model``; None for the checkpoint's own classifier (for "minilm", ours);
        "sentence_pruner" for the weights of that method, which then need no second place in memory.
    label: which of the classifier's outputs means "keep"; None for the one that a head file names "word" or "keep",
        else 1.
    token_to_word: a word's probability is the "mean" of its tokens' or that of its "first".
    force_tokens: words and marks that are always kept, compared as they are written; whitespace needs no forcing,
        newlines between kept words are always kept.
    force_digits: words with a digit are always kept.
    phrases: rank names, numbers and runs of content words as wholes, articles last, and negations with what they
        negate; `ctxcomp.text.phrases` says what it is worth. ``protect=("names", "digits", "negations")`` guarantees.
    clauses: in [0, 1], how much main clauses of English sentences count beside that: 0 keeps what answers questions, 1
        shortens to the gist, like a headline; `ctxcomp.text.clauses` says what either costs.
    drop_consecutive: of the same forced token twice in a row, with nothing kept between, keep the first.
    allocate: "global" lets dense passages keep more than others, "passage" keeps the same share of each, "chunk"
        the same share of each chunk of at most 510 tokens, as the paper does.
    min_score: keep only words of at least this probability; with ``Budget(keep=1)`` it alone decides.

    Source
    ------
    Pan et al., "LLMLingua-2: Data Distillation for Efficient and Faithful Task-Agnostic Prompt Compression" (2024).
    Deviations: words are the segmenter's, not the tokenizer's; words of one phrase rank alike; long texts run in
    overlapping windows; the budget is exact; forced words are guaranteed. For output equal to
    llmlingua 0.2.2 see `ctxcomp.compat.llmlingua`.
    """

    unit: Level = "word"
    head: str | None = None
    label: int | None = None
    token_to_word: Literal["mean", "first"] = "mean"
    force_tokens: tuple[str, ...] = ()
    force_digits: bool = False
    phrases: bool = True
    clauses: float = 0.0
    drop_consecutive: bool = False
    allocate: Literal["global", "passage", "chunk"] = "global"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        Selector.__post_init__(self)
        if not 0 <= self.clauses <= 1:
            raise InputError(f"clauses must be in [0, 1], got {self.clauses}")

    @property
    def protected_patterns(self) -> tuple[str, ...]:
        """What ``protect`` names, and the forced tokens and digits."""
        forced = tuple(_as_written(token) for token in self.force_tokens if token.strip())
        return self.protect + forced + (("digits",) if self.force_digits else ())

    def score(self, batch: Sequence[Candidates]) -> list[Scores]:
        """The keep probability of each unit, from one pass over the passages of all requests."""
        texts = list(dict.fromkeys(p.text for units in batch for p in units.passages))
        encoder = self.load_encoder()
        label = encoder.label_of("word", "keep") if self.label is None else self.label
        by_text = dict(zip(texts, encoder.keep_probs(texts, label=label), strict=True))
        return [self._score(units, by_text) for units in batch]

    def head_source(self) -> str:
        """Our own head for "minilm", the checkpoint's classifier otherwise."""
        if self.head is not None:
            return str(SHARED_HEAD) if self.head == "sentence_pruner" else self.head
        return str(DEFAULT_HEAD) if self.model == "minilm" else "token"

    def _score(self, units: Candidates, by_text: dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]]) -> Scores:
        scores = np.zeros(len(units))
        for p, passage in enumerate(units.passages):
            mine = units.units_of(p)
            offsets, probabilities = by_text[passage.text]
            word = part_of_tokens(units.start[mine], units.end[mine], offsets)
            inside = word >= 0
            scores[mine] = _merge(word[inside], probabilities[inside], len(scores[mine]), self.token_to_word)
        if self.unit != "word":
            return scores
        ranked = whole_phrases(units, scores) if self.phrases else scores
        return main_clauses(units, ranked, self.clauses) if self.clauses else ranked

    def groups(self, units: Candidates) -> NDArray[np.int64] | None:
        """Chunks of at most 510 tokens that end after a full stop or at a line's end, if ``allocate="chunk"``."""
        if self.allocate != "chunk":
            return None
        groups = np.zeros(len(units), np.int64)
        encoder = self.load_encoder()
        tokens = encoder.tokenize([p.text for p in units.passages])
        ends = np.array([text.endswith(".") for text in units.texts], bool)
        ends[:-1] |= units.gap[1:] >= 2
        following = 0
        for p, t in enumerate(tokens):
            mine = units.units_of(p)
            word = part_of_tokens(units.start[mine], units.end[mine], t.offsets)
            sizes = np.bincount(word[word >= 0], minlength=mine.stop - mine.start)
            groups[mine] = following + _chunks(sizes, ends[mine])
            following = int(groups[mine].max(initial=following - 1)) + 1
        return groups

    def refine(self, units: Candidates, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Without repeated forced tokens, if ``drop_consecutive``."""
        if not self.drop_consecutive or not self.force_tokens:
            return kept
        chosen = np.flatnonzero(kept)
        texts = [units.texts[i] for i in chosen.tolist()]
        fewer = kept.copy()
        for position in range(1, len(chosen)):
            same_passage = units.passage[chosen[position]] == units.passage[chosen[position - 1]]
            if same_passage and texts[position] in self.force_tokens and texts[position] == texts[position - 1]:
                fewer[chosen[position]] = False
        return fewer


def _merge(word: NDArray[np.int64], probabilities: NDArray[np.float32], n: int, how: str) -> Scores:
    if how == "first":
        scores = np.zeros(n)
        first_words, first = np.unique(word, return_index=True)
        scores[first_words] = probabilities[first]
        return scores
    sums = np.bincount(word, weights=probabilities, minlength=n)
    return sums / np.maximum(np.bincount(word, minlength=n), 1)


def _chunks(sizes: NDArray[np.int64], ends: NDArray[np.bool_]) -> NDArray[np.int64]:
    chunk = np.zeros(len(sizes), np.int64)
    start, used, boundary = 0, 0, -1
    for i, size in enumerate(sizes.tolist()):
        if used + size > CHUNK_TOKENS and i > start:
            start = boundary + 1 if boundary >= start else i
            chunk[start:] += 1
            used = int(sizes[start:i].sum())
        used += size
        boundary = i if ends[i] else boundary
    return chunk


def _as_written(token: str) -> str:
    """A pattern for exactly this token: a word by itself, a mark anywhere."""
    token = token.strip()
    left, right = (r"\b" if token[0].isalnum() else ""), (r"\b" if token[-1].isalnum() else "")
    return left + re.escape(token) + right
