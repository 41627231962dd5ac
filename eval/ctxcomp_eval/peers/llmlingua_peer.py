"""llmlingua 0.2.2's LLMLingua-2 on our encoder and head."""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctxcomp.compat.llmlingua import PromptCompressor
from ctxcomp.counting import TokenCounter
from ctxcomp.text.token_pruner import TokenPruner
from ctxcomp.types import Passage, Span
from ctxcomp_eval.peers.base import Answer, Peer, Room, largest
from ctxcomp_eval.peers.foreign import connect
from ctxcomp_eval.peers.llmlingua_checkpoint import checkpoint
from ctxcomp_eval.peers.llmlingua_trace import from_source, kept_words

log = logging.getLogger(__name__)

VARIABLE = "CTXCOMP_PEER_PYTHON"
INSTALL = "python -m venv .peer && .peer/bin/pip install torch==2.13.0 llmlingua==0.2.2 transformers==5.23.0"
PERCENT = 100
"""llmlingua cuts its rate to whole percents: nothing lies between."""
SEPARATOR = "\n\n"
"""What llmlingua puts between contexts."""


@dataclass(frozen=True, kw_only=True)
class Llmlingua(Peer):
    """``PromptCompressor.compress_prompt`` with the passages as a list of contexts.

    "llmlingua on the same encoder" means: the weights are MiniLM with a token head of ours; the chunks, the words and
    their probabilities, the threshold of each chunk and the joining are llmlingua 0.2.2's. Its training is not: no
    head of ours has seen GPT-4's deletions or lemmatised text. ``head`` takes one that was trained on other labels.

    Parameters
    ----------
    head: a head file for MiniLM; None is the one that `token_pruner` uses.
    rate: "fit" takes, for each request, the highest rate whose text is within the budget by our counter, for
        llmlingua misses its rate both ways; "asked" passes keep on as the rate, as a user would.
    join: "own" is llmlingua's text; "source" is the words that it kept, sliced from the passages, with spans.
    package: "compat" is ``ctxcomp.compat.llmlingua``, equal to the package call by call; "real" lets the package in
        the environment of CTXCOMP_PEER_PYTHON make the result, at the rate that compat found; "auto" is "real" where
        that variable is set.
    context_filter: first drop whole contexts, whatever the query, as ``compress_prompt`` does by default; the other way
        into llmlingua, ``compress_prompt_llmlingua2``, does not.
    force_tokens, force_digits, drop_consecutive: llmlingua's ``force_tokens``, ``force_reserve_digit``,
        ``drop_consecutive``, off by default there too.
    threads: CPU threads, 0 for the runtime's choice.
    """

    head: str | None = None
    rate: Literal["fit", "asked"] = "fit"
    join: Literal["own", "source"] = "own"
    package: Literal["auto", "compat", "real"] = "auto"
    context_filter: bool = True
    force_tokens: tuple[str, ...] = ()
    force_digits: bool = False
    drop_consecutive: bool = False
    threads: int = 0

    def answers(
        self, query: str, passages: tuple[Passage, ...], rooms: Sequence[Room], counter: TokenCounter
    ) -> list[Answer]:
        """The result at the rate of each budget; the query plays no part."""
        path = str(checkpoint(Path(TokenPruner(head=self.head).head_source())))
        compressor = remembering(_compressor(path, self.threads))
        arguments = self.arguments(passages)

        @functools.cache
        def compat(percent: int) -> Answer:
            began = time.perf_counter()
            found = compressor.compress_prompt_llmlingua2(rate=percent / PERCENT, **arguments)
            return self._answer(found, percent, passages, compressor, time.perf_counter() - began)

        seconds = compat(_asked(rooms[0])).seconds  # only the first call runs the encoder
        answers = []
        for room in rooms:

            def fits(percent: int, tokens: int = room.tokens) -> bool:
                return counter.count(compat(percent).text) <= tokens

            percent = _asked(room) if self.rate == "asked" else largest(1, PERCENT, fits)
            answer = dataclasses.replace(compat(percent), seconds=seconds)
            if self._is_real():
                peer = connect("llmlingua", VARIABLE, INSTALL, path, str(self.threads))
                found, took = peer.call(rate=percent / PERCENT, **arguments)
                real = self._answer(found, percent, passages, compressor, took)
                if real.text != answer.text:
                    log.warning("llmlingua and its drop-in differ at rate %s: taking llmlingua's", percent / PERCENT)
                answer = real
            answers.append(answer)
        return answers

    def arguments(self, passages: Sequence[Passage]) -> dict[str, Any]:
        """What llmlingua is called with, besides the rate."""
        return {
            "context": [passage.text for passage in passages],
            "use_context_level_filter": self.context_filter,
            "force_tokens": list(self.force_tokens),
            "force_reserve_digit": self.force_digits,
            "drop_consecutive": self.drop_consecutive,
            "return_word_label": self.join == "source",
        }

    def _is_real(self) -> bool:
        return self.package == "real" or (self.package == "auto" and bool(os.environ.get(VARIABLE)))

    def _answer(
        self, found: dict[str, Any], percent: int, passages: Sequence[Passage], compressor: Any, seconds: float
    ) -> Answer:
        texts = [passage.text for passage in passages]
        if self.join == "own":
            text, parts = found["compressed_prompt"], found["compressed_prompt_list"]
            return Answer(text, None, _attributed(parts, texts), seconds)
        left: tuple[str, ...] = tuple(texts)
        spans = tuple(Span(i, 0, len(text)) for i, text in enumerate(texts))
        if percent < PERCENT:  # at 1.0 llmlingua gives the text back and lists other words
            labelled = found["fn_labeled_original_prompt"]
            left, spans = from_source(kept_words(labelled, texts, compressor.tokenizer), texts)
        return Answer(SEPARATOR.join(filter(None, left)), spans, left, seconds)


@functools.cache
def _compressor(path: str, threads: int) -> PromptCompressor:
    return PromptCompressor(path, "cpu", use_llmlingua2=True, threads=threads)


def remembering(compressor: PromptCompressor) -> PromptCompressor:
    """The same compressor, which computes the probabilities of each chunk only once."""
    twin = copy.copy(compressor)
    model: Any = Remembered(twin._engine.model)
    twin._engine = dataclasses.replace(twin._engine, model=model)
    return twin


class Remembered:
    """A model behind a memory of its probabilities."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._known: dict[bytes, NDArray[np.float32]] = {}

    def probabilities(self, sequences: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Float32 ``[n]`` per sequence, in input order."""
        keys = [ids.tobytes() for ids in sequences]
        fresh = {key: ids for key, ids in zip(keys, sequences, strict=True) if key not in self._known}
        if fresh:
            self._known.update(zip(fresh, self._model.probabilities(list(fresh.values())), strict=True))
        return [self._known[key] for key in keys]


def _asked(room: Room) -> int:
    """The rate in percent that a user would ask for; at 0 llmlingua fails."""
    return max(round(room.share * PERCENT), 1)


def _attributed(parts: Sequence[str], texts: Sequence[str]) -> tuple[str, ...]:
    """What is left of each passage.

    llmlingua does not say which contexts its filter dropped: a result belongs to the next passage that has all its
    letters and digits in order.
    """
    if len(parts) == len(texts):
        return tuple(parts)
    left = [""] * len(texts)
    following = iter(enumerate(texts))
    for part in parts:
        left[next((i for i, text in following if _within(part, text)), len(texts) - 1)] = part
    return tuple(left)


def _within(part: str, text: str) -> bool:
    letters = iter(filter(str.isalnum, text.casefold()))
    return all(letter in letters for letter in filter(str.isalnum, part.casefold()))
