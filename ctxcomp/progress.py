"""Progress of long work: whoever wants to show it listens, nobody prints by default."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
Listener = Callable[[int, int], None]

_listener: ContextVar[Listener | None] = ContextVar("ctxcomp_progress", default=None)


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Within the block ``listener(done, total)`` is called as encoder batches finish."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tracked(items: Iterable[T]) -> Iterator[T]:
    """The items, telling the listener of each one that is done."""
    listener = _listener.get()
    if listener is None or not isinstance(items, Sized):
        yield from items
        return
    total = len(items)
    for done, item in enumerate(items, start=1):
        yield item
        listener(done, total)
