"""Where the negatives of `sentence_pruner` come from: passages that BM25 or the bare bi-encoder ranks high."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path

import bm25s
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ctxcomp.encode.load import load_encoder
from ctxcomp.text.bm25 import words
from ctxcomp_eval.retention import retained

Ranked = list[tuple[str, float]]
BATCH = 512


class Pool:
    """Passages that negatives are drawn from.

    Parameters
    ----------
    texts: duplicates count once.
    vectors: a file of the passages' embeddings, made where it is missing (80,000 passages take 20 minutes on two
        cores); None for negatives by BM25 alone.
    """

    def __init__(self, texts: Sequence[str], vectors: Path | None = None) -> None:
        self.texts = list(dict.fromkeys(texts))
        self.place = {text: i for i, text in enumerate(self.texts)}
        self.index = bm25s.BM25()
        self.index.index([words(text) for text in self.texts], show_progress=False)
        self.vectors = None if vectors is None else stored_vectors(self.texts, vectors)

    def negatives(self, question: str, answers: Sequence[str], gold: str, n: int) -> Ranked:
        """The best ``n`` passages without an answer, and not of the gold passage's text, with their BM25 scores.

        With vectors the best by BM25 and by embedding take turns.
        """
        scores = self.index.get_scores(words(question))
        order: Iterable[int] = best(scores, 6 * n)
        if self.vectors is not None:
            query = load_encoder("minilm").embed([question])[0]
            order = interleaved(order, best(self.vectors @ query, 6 * n))
        found: Ranked = []
        for i in order:
            text = self.texts[i]
            if text[:40] not in gold and gold[:40] not in text and not retained(answers, text):
                found.append((text, float(scores[i])))
            if len(found) == n:
                break
        return found

    def score(self, question: str, text: str) -> float:
        """BM25 of a text of the pool."""
        return float(self.index.get_scores(words(question))[self.place[text]])


def best(scores: NDArray[np.float32], n: int) -> list[int]:
    """The indices of the ``n`` highest scores, the highest first."""
    some = np.argpartition(-scores, min(n, len(scores) - 1))[:n]
    return [int(i) for i in some[np.argsort(-scores[some])]]


def interleaved(*orders: Iterable[int]) -> Iterator[int]:
    """The first of each, the second of each and so on, each index once."""
    turns = chain.from_iterable(zip_longest(*orders))
    return iter(dict.fromkeys(i for i in turns if i is not None))


def stored_vectors(texts: Sequence[str], path: Path) -> NDArray[np.float32]:
    """Unit vectors float32 ``[texts, hidden]`` of the bare encoder, kept in a file in half precision."""
    if not path.is_file():
        encoder = load_encoder("minilm")
        parts = [
            encoder.embed(texts[at : at + BATCH]).astype(np.float16)
            for at in tqdm(range(0, len(texts), BATCH), desc="embedding the pool")
        ]
        np.save(path, np.concatenate(parts))
    vectors: NDArray[np.float32] = np.load(path).astype(np.float32)
    if len(vectors) != len(texts):
        raise ValueError(f"{path} holds {len(vectors)} vectors for {len(texts)} passages: delete it to make it again")
    return vectors
