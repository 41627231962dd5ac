"""Stopping in order: not ready first, still answering; then no new connections; then the last answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from ctxcomp_service.service import Service

log = logging.getLogger(__name__)


@contextlib.contextmanager
def draining_on_sigterm(service: Service, seconds: float) -> Iterator[None]:
    """Within the block SIGTERM makes the service unready at once and reaches the server ``seconds`` later.

    In between a load balancer sees `/readyz` fail and sends nothing more; what still arrives is answered. A second
    SIGTERM is passed on immediately. Runs where the server has installed its own handler, in the main thread.
    """
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    loop = asyncio.get_running_loop()

    def drain(number: int, frame: FrameType | None) -> None:
        if service.draining or not seconds:
            service.draining = True
            before(number, frame)
            return
        service.draining = True
        loop.call_soon_threadsafe(_announce, loop, seconds, number)

    def _announce(loop: asyncio.AbstractEventLoop, seconds: float, number: int) -> None:
        log.info("stopping", extra={"drain_seconds": seconds})
        loop.call_later(seconds, before, number, None)

    signal.signal(signal.SIGTERM, drain)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
