"""One worker thread for encoder work, and a queue before it.

Requests that wait together and run on the same plan become one batch; its results are those of singles. While the
worker is busy the next batch gathers; an idle worker waits a few milliseconds for company.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ctxcomp.errors import ModelError
from ctxcomp.progress import listen
from ctxcomp.types import CompressedText, Request
from ctxcomp_service.methods import Plan
from ctxcomp_service.queueing import FairQueue, Job, Work
from ctxcomp_service.settings import Batching, Queue


class AbandonedError(Exception):
    """Nobody waits for the running batch any more."""


@dataclass(frozen=True, slots=True)
class Done:
    """What the work returned for one request, and the seconds in the queue and at work."""

    result: Any
    queued: float
    worked: float


def plain(plan: Plan, requests: Sequence[Request]) -> list[CompressedText]:
    """The usual work."""
    return plan.compressor.compress_batch(requests)


class Batcher:
    """Queue and worker.

    Parameters
    ----------
    observe_batch: called with the number of requests of each batch.
    """

    def __init__(
        self, batching: Batching, queue: Queue, observe_batch: Callable[[float], None] = lambda requests: None
    ) -> None:
        self._batching = batching
        self._observe_batch = observe_batch
        self._queue = FairQueue(queue)
        self._arrived = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="ctxcomp-encoder")
        self._dispatching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take work; needs a running event loop."""
        self._dispatching = asyncio.create_task(self._dispatch(), name="ctxcomp-batcher")

    @property
    def is_alive(self) -> bool:
        """Whether work is taken."""
        return self._dispatching is not None and not self._dispatching.done()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or runs."""
        return self._queue.is_idle

    async def stop(self) -> None:
        """Finish what is wanted, then end."""
        while not self.is_idle:
            await asyncio.sleep(0.01)
        if self._dispatching is not None:
            self._dispatching.cancel()
            await asyncio.gather(self._dispatching, return_exceptions=True)
        self._worker.shutdown()

    async def run(self, plan: Plan, request: Request, lane: str, work: Work = plain) -> Done:
        """Do the work for one request, in a batch with others.

        Parameters
        ----------
        lane: whose request it is; lanes take turns.
        work: called with the plan and the requests of a batch, in the worker thread; gives one result for each.

        Raises
        ------
        ServiceError: 503, the queue is full.
        Exception: whatever the work raised for this request.
        """
        job = Job(plan, request, lane, work, asyncio.get_running_loop().create_future())
        self._queue.put(job)
        self._arrived.set()
        try:
            result = await job.future
        finally:
            # If the caller went away, or its time is up, nothing of it stays in the queue.
            self._queue.discard(job)
        return Done(result, job.started - job.queued, time.monotonic() - job.started)

    async def _dispatch(self) -> None:
        while True:
            await self._arrived.wait()
            if self._batching.enabled and self._batching.wait_ms:
                await asyncio.sleep(self._batching.wait_ms / 1000)
            self._arrived.clear()
            while batch := self._queue.take(self._batching):
                await self._run(batch)

    async def _run(self, batch: list[Job]) -> None:
        outcome = await self._call(batch)
        if isinstance(outcome, BaseException) and len(batch) > 1:
            # One bad request must not fail its neighbours: each runs alone.
            for job in batch:
                _settle([job], await self._call([job]))
        else:
            _settle(batch, outcome)
        self._queue.finish(batch)
        self._observe_batch(len(batch))

    async def _call(self, batch: list[Job]) -> list[Any] | BaseException:
        """What the worker thread returned or raised."""
        if not any(job.is_wanted for job in batch):
            return AbandonedError()
        loop = asyncio.get_running_loop()
        called = loop.run_in_executor(self._worker, _work, batch)
        outcome: list[Any] | BaseException = (await asyncio.gather(called, return_exceptions=True))[0]
        return outcome


def _settle(batch: list[Job], outcome: list[Any] | BaseException) -> None:
    for i, job in enumerate(batch):
        if not job.is_wanted:
            continue
        if isinstance(outcome, BaseException):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome[i])


def _work(batch: list[Job]) -> list[Any]:
    def still_wanted(done: int, total: int) -> None:
        if not any(job.is_wanted for job in batch):
            raise AbandonedError

    with listen(still_wanted):
        results = batch[0].work(batch[0].plan, [job.request for job in batch])
    if len(results) != len(batch):
        raise ModelError(f"{batch[0].plan.method} gave {len(results)} results for {len(batch)} requests")
    return results
