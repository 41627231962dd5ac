"""What a generator gives back: a finished answer, or a stream of its pieces."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from ctxcomp.errors import InputError
from ctxcomp.generate.usage import Usage

Run = Callable[[Callable[[str], None], threading.Event], "Generated"]


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer.

    Parameters
    ----------
    text: without special tokens and stop texts.
    tokens: the token ids as they were chosen, with the one that ended the answer.
    finish_reason: "stop" at an end token or a stop text, "length" at ``max_tokens`` or the window's end, "cancelled".
    usage: what it took.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: Literal["stop", "length", "cancelled"]
    usage: Usage


class Stream(Iterator[str]):
    """Pieces of an answer's text as they are written; ``result`` and ``usage`` afterwards.

    The model works in a thread of its own. ``close``, the end of a ``with`` block or letting go of the stream stop it.
    """

    def __init__(self, run: Run) -> None:
        pieces: queue.SimpleQueue[str | Generated | BaseException] = queue.SimpleQueue()
        cancelled = threading.Event()

        def work() -> None:
            try:
                pieces.put(run(pieces.put, cancelled))
            except BaseException as error:  # noqa: BLE001 - raised again where the stream is read
                pieces.put(error)

        self._pieces, self._cancelled = pieces, cancelled
        self._result: Generated | None = None
        self._over = False
        self._thread = threading.Thread(target=work, name="ctxcomp-stream", daemon=True)
        self._thread.start()

    def __next__(self) -> str:
        if self._over:
            raise StopIteration
        found = self._pieces.get()
        if isinstance(found, str):
            return found
        self._over = True
        if isinstance(found, Generated):
            self._result = found
            raise StopIteration
        raise found

    @property
    def result(self) -> Generated:
        """The whole answer.

        Raises
        ------
        InputError: the stream was not read to its end.
        """
        if self._result is None:
            raise InputError("the answer is not complete: read the stream to its end first")
        return self._result

    @property
    def usage(self) -> Usage:
        """What the answer took; errors as for ``result``."""
        return self.result.usage

    def close(self) -> None:
        """Stop the model after the token it is at, and wait for that."""
        self._cancelled.set()
        self._thread.join()
        for _ in self:
            pass

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_cancelled"):
            self._cancelled.set()
