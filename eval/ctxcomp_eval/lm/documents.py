"""What the small model reads: plain text, questions answered by a quotation, facts to find again, text to repeat.

The last three teach what a RAG generator does, copying from its context, which plain text alone teaches a small model
late. Held out from all of them, by a hash of the text: two percent of the passages, five of the books and questions.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ctxcomp_eval.data import bucket, data_dir, read_rows
from ctxcomp_eval.lm.tokenizer import ASSISTANT, END, USER

HELD_OUT_TEXT, HELD_OUT_BOOKS, HELD_OUT_QUESTIONS = 2, 5, 5
"""Percent."""
KINDS = {"wiki": 0.36, "book": 0.12, "quote": 0.22, "needle": 0.25, "repeat": 0.05}
"""Share of the documents. With .1 of needles, one code asked of each, no digit was copied after 11 million tokens."""
WORDS = "amber birch cedar delta ember falcon garnet harbor indigo jasper kestrel lagoon maple nectar onyx pepper"


@dataclass(frozen=True)
class Exchange:
    """A context with a question, and the answer that the model should give."""

    context: str
    question: str
    answer: str

    @property
    def prompt(self) -> str:
        """What the user says."""
        return f"{self.context}\n\nQuestion: {self.question}"

    @property
    def document(self) -> str:
        """The whole as the model is trained on it."""
        return f"{USER}{self.prompt}{END}{ASSISTANT}{self.answer}"


@dataclass(frozen=True)
class Sources:
    """The texts of one split: "train" or "dev"."""

    split: str
    folder: Path

    @classmethod
    def of(cls, split: str) -> Sources:
        """From the shared data.

        Raises
        ------
        InputError: they are not there.
        """
        return cls(split, data_dir())

    def _mine(self, text: str, percent: int) -> bool:
        return (bucket(text) < percent) == (self.split == "dev")

    @cached_property
    def wiki(self) -> list[str]:
        """Wikipedia passages."""
        texts = (row["text"] for row in read_rows(self.folder / "lm/wiki_pool.jsonl.gz"))
        return [text for text in texts if self._mine(text, HELD_OUT_TEXT)]

    @cached_property
    def books(self) -> list[str]:
        """Pieces of books, of about 3,000 characters."""
        pieces = []
        for row in read_rows(self.folder / "lm/books.jsonl.gz"):
            if self._mine(row["title"], HELD_OUT_BOOKS):
                text = re.sub(r"(?<!\n)\n(?!\n)", " ", row["text"])
                pieces += [text[i : i + 3000] for i in range(0, len(text), 3000)]
        return pieces

    @cached_property
    def questions(self) -> list[dict[str, Any]]:
        """Questions with a context and a span."""
        found = read_rows(self.folder / "qa/span_train.jsonl.gz")
        return [row for row in found if self._mine(row["context"], HELD_OUT_QUESTIONS)]


def beginning(text: str) -> str:
    """What tells a text from others however it is spaced and punctuated: its first 60 letters and digits."""
    return "".join(filter(str.isalnum, text.lower()))[:60]


def quote(row: dict[str, Any], others: list[str], generator: random.Random, most: int) -> Exchange:
    """The question over its passage and up to ``most`` others, answered by the sentence that holds the answer."""
    context, answer = row["context"], row["answers"][0]
    ends = [m.end() for m in re.finditer(r"[.!?]['\"]?\s+", context)]
    start = max((e for e in ends if e <= answer["start"]), default=0)
    end = min((e for e in ends if e >= answer["start"] + len(answer["text"])), default=len(context))
    passages = [context, *generator.sample(others, generator.randint(0, most))]
    generator.shuffle(passages)
    said = f'"{context[start:end].strip()}" The answer is {answer["text"]}.'
    return Exchange("\n\n".join(passages), row["question"], said)


def needle(others: list[str], generator: random.Random, passages: int, facts: int = 3, asked: int = 1) -> Exchange:
    """Codes hidden in passages; ``asked`` of them are asked for."""
    texts = generator.sample(others, passages)
    names = generator.sample([f"{a} {b}" for a in WORDS.split() for b in WORDS.split() if a != b], facts)
    codes = [f"{generator.randrange(10**5):05d}" for _ in names]
    for name, code in zip(names, codes, strict=True):
        at = generator.randrange(len(texts))
        cut = generator.choice([m.end() for m in re.finditer(r"\. |$", texts[at])])
        texts[at] = f"{texts[at][:cut].rstrip()} The code of {name} is {code}. {texts[at][cut:]}".strip()
    some = generator.sample(range(facts), asked)
    question = f"What is the code of {' and of '.join(names[i] for i in some)}?"
    return Exchange("\n\n".join(texts), question, " ".join(f"The code of {names[i]} is {codes[i]}." for i in some))


def repeat(others: list[str], generator: random.Random) -> Exchange:
    """A stretch of text to be said again."""
    words = generator.choice(others).split(" ")
    start = generator.randrange(max(1, len(words) - 20))
    text = " ".join(words[start : start + generator.randint(8, 60)])
    return Exchange(text, "Repeat the text.", text)


def documents(sources: Sources, seed: int, words: int) -> Iterator[str]:
    """Endless documents of mixed kinds, contexts of up to about ``words`` words; the same for the same seed."""
    generator = random.Random(f"{sources.split} {seed}")
    while True:
        kind = generator.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "wiki":
            yield generator.choice(sources.wiki)
        elif kind == "book":
            yield generator.choice(sources.books)
        elif kind == "quote":
            row = generator.choice(sources.questions)
            yield quote(row, sources.wiki, generator, max(0, (words - len(row["context"].split())) // 100)).document
        elif kind == "needle":
            most = max(1, words // 100)
            facts = generator.randint(1, 6)
            asked = generator.randint(1, facts)
            yield needle(sources.wiki, generator, generator.randint(1, most), facts, asked).document
        else:
            yield repeat(sources.wiki, generator).document
