"""From tokens to text, as they come: whole characters only, nothing of a stop text, and why it ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import StoppingCriteria

FinishReason = Literal["stop", "length", "cancelled"]
BROKEN = "\ufffd"
"""What decoders show for bytes that are no whole character (yet)."""


class Writer:
    """The text of one answer while it grows.

    Parameters
    ----------
    decode: token ids to text, special tokens left out.
    ends: tokens that end the answer.
    stop: texts that end the answer; what may be the beginning of one is held back.
    on_text: called with each new piece of text.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        ends: frozenset[int],
        stop: Sequence[str] = (),
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        self._decode, self._ends, self._stop = decode, ends, tuple(stop)
        self._on_text = on_text
        self.tokens: list[int] = []
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self._held = ""
        # Some decoders treat a text's first token differently: a token is decoded with its predecessors.
        self._from = self._read = 0

    def add(self, token: int) -> None:
        """Take one token; nothing once the answer has ended."""
        if self.finish_reason is not None:
            return
        self.tokens.append(token)
        if token in self._ends:
            self.finish("stop")
            return
        before = self._decode(self.tokens[self._from : self._read])
        now = self._decode(self.tokens[self._from :])
        if len(now) > len(before) and not now.endswith(BROKEN):
            self._from, self._read = self._read, len(self.tokens)
            self._take(now[len(before) :])

    def finish(self, reason: FinishReason) -> None:
        """The answer is complete: give out what was held back."""
        if self.finish_reason is not None:
            return
        tail = self.tokens[self._from :]
        if tail and tail[-1] in self._ends:
            tail = tail[:-1]
        self._take(self._decode(tail)[len(self._decode(self.tokens[self._from : self._read])) :])
        if self.finish_reason is None:
            self.finish_reason = reason
            self._give(self._held)

    def _take(self, piece: str) -> None:
        self._held += piece
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.finish_reason = "stop"
            self._give(self._held[: min(found)])
            return
        keep = max((n for stop in self._stop for n in range(1, len(stop)) if self._held.endswith(stop[:n])), default=0)
        given, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        self._give(given)

    def _give(self, piece: str) -> None:
        self.text += piece
        if piece and self._on_text is not None:
            self._on_text(piece)


class Watch(StoppingCriteria):
    """Sees every token as it is chosen: writes text, ends rows, counts model calls and takes the time.

    Parameters
    ----------
    writers: one for each row of the batch.
    prompt_length: tokens of the padded prompts.
    cancelled: set from another thread, ends everything after the current token.
    """

    def __init__(self, writers: Sequence[Writer], prompt_length: int, cancelled: threading.Event | None = None) -> None:
        self._writers, self._cancelled = writers, cancelled
        self._seen = prompt_length
        self.model_calls = 0
        self.began = self.first = self.last = time.perf_counter()

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """``input_ids`` ``[rows, n]``; which rows are done, ``[rows]``. Decoding loops call it once a model call."""
        new = input_ids[:, self._seen :].tolist()
        self._seen = input_ids.shape[1]
        self.model_calls += 1
        self.last = time.perf_counter()
        if self.model_calls == 1:
            self.first = self.last
        for writer, tokens in zip(self._writers, new, strict=True):
            for token in tokens:
                writer.add(token)
        if self._cancelled is not None and self._cancelled.is_set():
            for writer in self._writers:
                writer.finish("cancelled")
        done = [writer.finish_reason is not None for writer in self._writers]
        return torch.tensor(done, device=input_ids.device)
