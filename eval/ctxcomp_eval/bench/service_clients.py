"""Clients for the service's benchmarks: real HTTP, real passages, no two requests alike."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import httpx
import numpy as np

from ctxcomp_eval.bench.common import wiki_passages

KEEP = 0.3
TIMEOUT_SECONDS = 120.0

Pause: TypeAlias = Callable[[], float]


@dataclass(slots=True)
class Tally:
    """What the clients of one run saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    refused_seconds: list[float] = field(default_factory=list)
    not_accepted: int = 0
    lost: list[str] = field(default_factory=list)
    took: float = 0.0

    @property
    def accepted(self) -> int:
        """Requests that were answered with 200."""
        return self.statuses[200]

    @property
    def errors(self) -> int:
        """Answers other than 200, 429 and 503, and requests without an answer."""
        return sum(n for status, n in self.statuses.items() if status not in (200, 429, 503)) + len(self.lost)

    def row(self) -> dict[str, Any]:
        """Columns for the CSV file; times are of accepted requests."""
        p50, p99 = np.percentile(self.seconds or [np.nan], (50, 99)).tolist()
        return {
            "accepted": self.accepted, "refused": self.statuses[429] + self.statuses[503], "errors": self.errors,
            "not_accepted": self.not_accepted, "accepted_per_s": self.accepted / self.took if self.took else 0.0,
            "p50_s": p50, "p99_s": p99,
        }  # fmt: skip


class Bodies:
    """Requests of so many passages each, in turns; every one with another query and other passages.

    Parameters
    ----------
    words: each passage is cut after so many; None leaves them at about 130 tokens.
    """

    def __init__(self, *sizes: int, words: int | None = None, pool: int = 400) -> None:
        self._passages = [" ".join(passage.text.split()[:words]) for passage in wiki_passages(pool)]
        self._sizes = sizes
        self._numbers = itertools.count()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        """The next request."""
        n = next(self._numbers)
        size, pool = self._sizes[n % len(self._sizes)], self._passages
        texts = [pool[(n * 7 + i * 11) % len(pool)] for i in range(size)]
        words = pool[n % len(pool)].split()
        query = f"When was {words[n % len(words)]} founded, and by whom? ({n})"
        return {"query": query, "passages": texts, "budget": {"keep": KEEP}}


async def load(
    url: str,
    headers: dict[str, str],
    bodies: Bodies,
    *,
    clients: int,
    seconds: float | None = None,
    requests: int | None = None,
    pause: Pause | None = None,
    stop: asyncio.Event | None = None,
) -> Tally:
    """Let clients send one request after the other until the time is over, or so many were sent.

    Parameters
    ----------
    pause: gives the seconds that a client waits before each request.
    stop: ends it early.
    """
    tally, sent = Tally(), itertools.count()
    began = time.perf_counter()
    ended = stop or asyncio.Event()

    async def client() -> None:
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_SECONDS) as http:
            while not ended.is_set():
                left = float("inf") if seconds is None else began + seconds - time.perf_counter()
                wait = pause() if pause else 0.0
                await asyncio.sleep(max(0.0, min(wait, left)))
                if wait >= left or (requests is not None and next(sent) >= requests):
                    return
                if not await _send(http, next(bodies), tally):
                    return

    await asyncio.gather(*(client() for _ in range(clients)))
    tally.took = time.perf_counter() - began
    return tally


async def _send(http: httpx.AsyncClient, body: dict[str, Any], tally: Tally) -> bool:
    """Send one request; False when the service takes no more connections."""
    began = time.perf_counter()
    try:
        answer = await http.post("/v1/compress", json=body)
    except httpx.ConnectError:
        tally.not_accepted += 1
        return False
    except httpx.TransportError as error:
        tally.lost.append(f"{type(error).__name__}: {error}")
        return True
    tally.statuses[answer.status_code] += 1
    (tally.seconds if answer.status_code == 200 else tally.refused_seconds).append(time.perf_counter() - began)
    return True


def poisson(per_second: float, clients: int) -> Pause:
    """Pauses after which so many clients together send so many requests a second, at random times."""
    rng = random.Random(0)
    return lambda: rng.expovariate(per_second / clients)
