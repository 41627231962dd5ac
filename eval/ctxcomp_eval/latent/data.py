"""What the latent methods learn from: passages and questions with the retriever's vectors, cut to the model's tokens.

Held out is what the small language model's own training held out, by a hash of the text. A text may stand in the pool
and among the questions, spaced another way: what begins like a text of the other split is left out of both.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ctxcomp.encode import load_encoder
from ctxcomp_eval.lm.documents import Sources, beginning, quote

PIECE = 512
"""Texts embedded at once."""


@dataclass(frozen=True)
class Item:
    """One passage, with a question about it where there is one.

    Parameters
    ----------
    text: the passage, cut to the length that training uses.
    embedding: the retriever's vector of ``text``, float32 ``[dim]``.
    question, answer: "" where there is none.
    """

    text: str
    embedding: NDArray[np.float32]
    question: str = ""
    answer: str = ""


class Retriever:
    """An encoder whose vectors are kept in ``folder`` piece by piece, so that an interrupted run goes on."""

    def __init__(self, name: str, folder: Path) -> None:
        self.encoder, self.folder = load_encoder(name, threads=1), folder

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of length 1, ``[texts, dim]``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        found = []
        for start in tqdm(range(0, len(texts), PIECE), desc="embed", mininterval=10):
            piece = list(texts[start : start + PIECE])
            key = hashlib.sha256("\0".join([self.encoder.weights_hash, *piece]).encode()).hexdigest()[:24]
            file = self.folder / f"{key}.npy"
            if not file.is_file():
                np.save(file, self.encoder.embed(piece).astype(np.float16))
            found.append(np.load(file, allow_pickle=False).astype(np.float32))
        return np.concatenate(found) if found else np.zeros((0, self.encoder.hidden_size), np.float32)


def passages(split: str, tokenizer: Any, tokens: int, limit: int, retriever: Retriever) -> list[Item]:
    """Wikipedia passages of a split, cut to ``tokens`` of the language model's tokens."""
    known = _other_beginnings(split)
    texts = [text for text in Sources.of(split).wiki if len(text) > 2 * tokens and beginning(text) not in known]
    random.Random(0).shuffle(texts)
    texts = [cut(tokenizer, text, tokens) for text in texts[:limit]]
    return [Item(text, vector) for text, vector in zip(texts, retriever.embed(texts), strict=True)]


def questions(split: str, tokenizer: Any, tokens: int, limit: int, retriever: Retriever) -> list[Item]:
    """Questions with a passage of at most ``tokens`` and the answer the small model was taught to give: a quotation."""
    known = _other_beginnings(split)
    rows = [row for row in Sources.of(split).questions if len(row["context"]) < 4 * tokens]
    rows = [row for row in rows if beginning(row["context"]) not in known]
    random.Random(0).shuffle(rows)
    rows = rows[:limit]
    vectors = retriever.embed([row["context"] for row in rows])
    generator = random.Random(0)
    exchanges = [quote(row, [], generator, 0) for row in rows]
    return [
        Item(row["context"], vector, row["question"], exchange.answer)
        for row, vector, exchange in zip(rows, vectors, exchanges, strict=True)
    ]


def cut(tokenizer: Any, text: str, tokens: int) -> str:
    """The beginning of a text, of about ``tokens`` tokens."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:tokens]
    return str(tokenizer.decode(ids))


@cache
def _other_beginnings(split: str) -> set[str]:
    """How the texts of the other split begin."""
    other = Sources.of("train" if split == "dev" else "dev")
    return {beginning(text) for text in [*other.wiki, *(row["context"] for row in other.questions)]}
