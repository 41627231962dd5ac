"""Questions with answer spans for the reader, and contexts made like those that compressors leave."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxcomp.segment import segment
from ctxcomp_eval.data import in_dev, read_rows
from ctxcomp_eval.reader import ANSWER

_SEARCHED = 10_000
"""Passages for questions are searched in the contexts of about so many questions: more would slow training down."""
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question whose answer is ``context[start:end]``."""

    question: str
    context: str
    start: int
    end: int


def asked(folder: Path, part: str) -> list[Asked]:
    """The questions of qa/span_train with the first of their answers.

    Answers without an offset are looked up in the context, and left out where they are not in it exactly once; so are
    answers of more than ``ANSWER`` words.

    Parameters
    ----------
    part: "train" or "dev"; dev is the split "span_dev".
    """
    rows = read_rows(folder / "qa" / "span_train.jsonl.gz")
    found = (_located(row) for row in rows if in_dev("span_dev", row) == (part == "dev"))
    return [example for example in found if example is not None]


def _located(row: dict[str, Any]) -> Asked | None:
    answer, context = row["answers"][0], row["context"]
    text, start = answer["text"].strip(), answer["start"]
    if start is None or start < 0:
        start = context.find(text) if context.count(text) == 1 else -1
    else:
        start += len(answer["text"]) - len(answer["text"].lstrip())
    if start < 0 or not text or len(text.split()) > ANSWER:
        return None
    return Asked(row["question"].strip(), context, start, start + len(text))


def thin_sentences(example: Asked, generator: random.Random) -> Asked:
    """Drop a random share of the sentences, never one that the answer touches."""
    units = segment(example.context)
    keep = generator.uniform(0.15, 0.9)
    spans = zip(units.start.tolist(), units.end.tolist(), strict=True)
    return _joined(example, (span for span in spans if generator.random() < keep or _touches(example, *span)))


def thin_words(example: Asked, generator: random.Random) -> Asked:
    """Drop a random share of the words, never one of the answer's."""
    drop = generator.uniform(0.05, 0.5)
    spans = (match.span() for match in _WORD.finditer(example.context))
    return _joined(example, (span for span in spans if generator.random() >= drop or _touches(example, *span)))


def _touches(example: Asked, start: int, end: int) -> bool:
    return start < example.end and example.start < end


def _joined(example: Asked, spans: Iterator[tuple[int, int]]) -> Asked:
    """The example on the kept spans alone: gaps as they were where they are kept on both sides, else one space."""
    text, last, at = "", -1, -1
    for start, end in spans:
        gap = example.context[last:start] if last >= 0 and example.context[last:start].isspace() else " "
        text += gap if text else ""
        if start <= example.start < end:
            at = len(text) + example.start - start
        text += example.context[start:end]
        last = end
    answer = example.context[example.start : example.end]
    # An answer over two units keeps its length only if the gap between them was kept: it is white space, and it was.
    return Asked(example.question, text, at, at + len(answer)) if text[at : at + len(answer)] == answer else example


def beside(example: Asked, other: str, before: bool) -> Asked:
    """The example with another passage before or after its own, joined as compressors join passages."""
    gap = "\n\n"
    if not before:
        return Asked(example.question, example.context + gap + other, example.start, example.end)
    shift = len(other) + len(gap)
    return Asked(example.question, other + gap + example.context, example.start + shift, example.end + shift)


def distractors(examples: Sequence[Asked]) -> Callable[[Asked, random.Random], str]:
    """A function that draws a passage for a question: of its ten best by BM25, one without the answer.

    The passages are some of the contexts of ``examples``. Where all ten hold the answer, any passage is drawn.
    """
    import bm25s

    texts = list(dict.fromkeys(example.context for example in examples))[:: len(examples) // _SEARCHED + 1]
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)

    def draw(example: Asked, generator: random.Random) -> str:
        query = bm25s.tokenize([example.question], stopwords="en", show_progress=False)
        rows, _ = index.retrieve(query, k=min(10, len(texts)), show_progress=False)
        answer = example.context[example.start : example.end].lower()
        hard: list[str] = [texts[i] for i in rows[0] if answer not in texts[i].lower()]
        return generator.choice(hard or texts)

    return draw
