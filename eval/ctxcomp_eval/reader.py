"""A fixed reader: the span of a context that answers a question best, by a small head on MiniLM.

It is a yardstick: a small extractive model, the same for every method, so that a difference in its score is a
difference in what a compressor left. Its model card, ``weights/MODEL_CARD.md``, has data, licences and figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctxcomp.encode.encoder import Encoder, Floats, Ids
from ctxcomp.encode.load import load_encoder
from ctxcomp.encode.tokens import Tokens
from ctxcomp.encode.windows import windows
from ctxcomp.errors import InputError

WEIGHTS = Path(__file__).parent / "weights" / "reader.safetensors"
WINDOW = 320
"""Positions of a window with question and specials: the longest seen in training."""
QUESTION = 64
"""Tokens of a question that are read; the rest is cut off."""
ANSWER = 30
"""Tokens of an answer, at most."""
_OVERLAP = 64
_CHUNK = 512


def best_span(start: NDArray[np.float32], end: NDArray[np.float32], longest: int = ANSWER) -> tuple[float, int, int]:
    """The best span of at most ``longest`` tokens: its score, its first and its last token.

    Parameters
    ----------
    start, end: logits float32 ``[n]``, n >= 1; a span's score is the sum of its first token's start logit and its
        last token's end logit.
    """
    padded = np.concatenate([end, np.full(longest - 1, -np.inf, dtype=np.float32)])
    reach = np.lib.stride_tricks.sliding_window_view(padded, longest)
    first = int(np.argmax(start + reach.max(axis=1)))
    last = first + int(reach[first].argmax())
    return float(start[first] + end[last]), first, last


def pair_ids(encoder: Encoder, question: Ids, context: Ids) -> Ids:
    """``[CLS] question [SEP] context [SEP]``, int64 ``[n]``."""
    return np.concatenate([encoder.with_specials(question), context, [encoder.sep_id]]).astype(np.int64)


@dataclass(frozen=True)
class Reader:
    """Answers questions with spans of their contexts; make one with ``load_reader``.

    Parameters
    ----------
    encoder: with a head of two outputs per token, the logits of an answer's first and last token.
    name: as it stands in results.
    """

    encoder: Encoder = field(repr=False)
    name: str = "reader"

    def answer(self, questions: Sequence[str], contexts: Sequence[str]) -> list[str]:
        """One answer per question, a slice of its context; "" where the context has no words.

        A context longer than a window is read in overlapping windows, and the best span of all wins.

        Raises
        ------
        InputError: not as many contexts as questions.
        """
        if len(questions) != len(contexts):
            raise InputError(f"{len(questions)} questions and {len(contexts)} contexts: each question needs its own")
        pairs = list(zip(questions, contexts, strict=True))
        return [answer for at in range(0, len(pairs), _CHUNK) for answer in self._answer(pairs[at : at + _CHUNK])]

    def _answer(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))  # a context is often asked many questions
        tokens = dict(zip(texts, self.encoder.tokenize(texts), strict=True))
        cuts, sequences = [], []
        for question, context in pairs:
            asked = tokens[question].ids[:QUESTION]
            cut = windows(len(tokens[context]), WINDOW - 3 - len(asked), _OVERLAP)
            cuts.append((len(asked) + 2, cut))
            sequences += [pair_ids(self.encoder, asked, tokens[context].ids[a:b]) for a, b in cut]
        logits = iter(self.encoder.token_logits(sequences))
        found = []
        for (_, context), (first, cut) in zip(pairs, cuts, strict=True):
            spans = [(a, next(logits)[first:-1]) for a, _ in cut]
            found.append(_slice(context, tokens[context], spans))
        return found


def _slice(context: str, tokens: Tokens, spans: Sequence[tuple[int, Floats]]) -> str:
    """The text of the best span; ``spans`` holds the first token and the logits ``[n, 2]`` of each window."""
    if not len(tokens):
        return ""
    best = [(*best_span(logits[:, 0], logits[:, 1]), at) for at, logits in spans]
    _, first, last, at = max(best, key=lambda span: span[0])
    return context[tokens.offsets[at + first, 0] : tokens.offsets[at + last, 1]]


def load_reader(head: Path = WEIGHTS, *, threads: int = 0) -> Reader:
    """The reader with its shipped weights.

    Parameters
    ----------
    head: another head file of the same form.
    threads: CPU threads of ONNX Runtime, 0 for its own choice.

    Raises
    ------
    InputError: the head has not two outputs.
    ModelError: the file is missing or damaged.
    """
    encoder = load_encoder("minilm", head=head, threads=threads)
    if encoder.num_labels != 2:
        raise InputError(f"a reader's head has two outputs, start and end; {head.name} has {encoder.num_labels}")
    return Reader(encoder)
