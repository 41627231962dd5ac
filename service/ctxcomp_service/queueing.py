"""A fair queue that knows how long its work takes, and refuses what would wait too long.

Lanes, one a tenant, take turns. How long work takes is measured: seconds a character, for each method.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ctxcomp.types import Request
from ctxcomp_service.errors import ServiceError
from ctxcomp_service.methods import Plan
from ctxcomp_service.settings import Batching, Queue

Work: TypeAlias = Callable[[Plan, Sequence[Request]], list[Any]]

OVERHEAD_CHARACTERS = 300
"""What a request costs besides its text, in characters."""
FIRST_PACE = 5e-5
"""Seconds a character before anything was measured: the default method on 2 cores takes about this."""
NEWEST_WEIGHT = 0.2
OUTLIER = 4.0
"""A batch that took longer than so many times the usual counts as that: other work had the machine."""


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way."""

    plan: Plan
    request: Request
    lane: str
    work: Work
    future: asyncio.Future[Any]
    queued: float = field(default_factory=time.monotonic)
    started: float = 0.0
    size: int = 0

    def __post_init__(self) -> None:
        texts = sum(len(p.text) + len(self.request.query) for p in self.request.passages)
        self.size = OVERHEAD_CHARACTERS + texts

    @property
    def is_wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not self.future.done()

    def can_join(self, other: Job) -> bool:
        """Whether both can be in one batch."""
        return self.plan.key == other.plan.key and self.work is other.work


class FairQueue:
    """Waiting jobs by lane, and those at work."""

    def __init__(self, bounds: Queue) -> None:
        self._bounds = bounds
        self._lanes: OrderedDict[str, deque[Job]] = OrderedDict()
        self._pace: dict[str, float | None] = {}
        self._running: list[Job] = []
        self._running_since = 0.0

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return sum(map(len, self._lanes.values()))

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or runs."""
        return not self._lanes and not self._running

    def put(self, job: Job) -> None:
        """Let a job wait.

        Raises
        ------
        ServiceError: 503, it would wait too long.
        """
        estimate, alone = self._estimate(job), self._seconds([job])
        too_slow = estimate > max(self._bounds.seconds, self._bounds.slowdown * alone)
        if not self.is_idle and (too_slow or self.waiting >= self._bounds.requests):
            message = f"the service is busy: an answer would take about {estimate:.1f} s"
            raise ServiceError(503, "overloaded", message, retry_after=estimate)
        self._lanes.setdefault(job.lane, deque()).append(job)

    def discard(self, job: Job) -> None:
        """Forget a job, if it still waits."""
        lane = self._lanes.get(job.lane)
        if lane is not None and job in lane:
            lane.remove(job)
            if not lane:
                del self._lanes[job.lane]

    def take(self, batching: Batching) -> list[Job]:
        """The first job of the lane whose turn it is, with others that can join it; all are then at work."""
        if not self._lanes:
            return []
        name, lane = next(iter(self._lanes.items()))
        batch = [lane[0], *(self._company(lane[0], batching) if batching.enabled else ())]
        for job in batch:
            self.discard(job)
        if name in self._lanes:
            self._lanes.move_to_end(name)
        self._running, self._running_since = batch, time.monotonic()
        for job in batch:
            job.started = self._running_since
        return batch

    def finish(self, batch: list[Job]) -> None:
        """A batch is done: learn from how long it took."""
        method, seconds = batch[0].plan.method, time.monotonic() - self._running_since
        self._running = []
        fresh = seconds / sum(job.size for job in batch)
        known = self._pace.get(method)
        if method not in self._pace:
            self._pace[method] = None  # the first one also loaded the model
        elif known is None:
            self._pace[method] = fresh
        else:
            self._pace[method] = known + NEWEST_WEIGHT * (min(fresh, OUTLIER * known) - known)

    def _company(self, first: Job, batching: Batching) -> list[Job]:
        """Jobs that can join the first one, a lane at a time, within the bounds of a batch."""
        room = batching.seconds - self._seconds([first])
        lanes = [deque(j for j in lane if j is not first and j.can_join(first)) for lane in self._lanes.values()]
        company: list[Job] = []
        while lanes := [lane for lane in lanes if lane]:
            for lane in lanes:
                room -= self._seconds([lane[0]])
                if room < 0 or len(company) + 1 >= batching.requests:
                    return company
                company.append(lane.popleft())
        return company

    def _estimate(self, job: Job) -> float:
        """Seconds until a job that comes now is answered."""
        own = self._seconds([job, *self._lanes.get(job.lane, ())])
        # Lanes take turns: of each other lane only as much comes first as this one has, but whole jobs.
        others = sum(
            min(max(own, self._seconds([lane[0]])), self._seconds(lane))
            for name, lane in self._lanes.items()
            if name != job.lane
        )
        return self._left() + own + others

    def _left(self) -> float:
        """Seconds that the running batch still takes; one that is overdue takes as long again as it is overdue."""
        if not any(job.is_wanted for job in self._running):
            return 0.0
        return abs(self._seconds(self._running) - (time.monotonic() - self._running_since))

    def _seconds(self, jobs: Iterable[Job]) -> float:
        return sum(job.size * (self._pace.get(job.plan.method) or FIRST_PACE) for job in jobs)
