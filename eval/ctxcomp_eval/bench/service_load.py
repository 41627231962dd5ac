"""The service under load, in a process of its own. Writes results/service_load.csv.

    python -m ctxcomp_eval.bench.service_load

Parts, each with the default settings unless it says otherwise:
  alone      one client, requests of 20 passages: the uncontended times
  overload   64 clients for 60 s at twice the measured capacity; memory over time
  batching   32 clients with one- and two-passage requests, batching on and off in turns; long passages, which fill
             the cores by themselves, and short ones
  sigterm    SIGTERM while 16 clients send
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from ctxcomp_eval.bench.common import PACKAGES, RESULTS, write_csv
from ctxcomp_eval.bench.service_clients import Bodies, Tally, load, poisson
from ctxcomp_eval.bench.service_process import ServiceProcess

SERVICE_PACKAGES = (*PACKAGES, "fastapi", "starlette", "uvicorn", "pydantic")
PASSAGES = 20
CAPACITY_CLIENTS = 2
SAMPLE_SECONDS = 1.0
WARM_UP_SECONDS = 2.0
SHORT_WORDS = 15
TARGET_SLOWDOWN = 3.0
TARGET_BATCHING = 1.8


def overload(method: str, seconds: float, alone_requests: int) -> list[dict[str, Any]]:
    """Times of a single client, the capacity, and 64 clients at twice of it."""
    bodies = Bodies(PASSAGES)
    with ServiceProcess(METHOD=method, CACHE_BYTES="0") as service:
        run = _Runner(service)
        run(load(service.url, service.headers, bodies, clients=1, requests=3))
        alone = run(load(service.url, service.headers, bodies, clients=1, requests=alone_requests))
        busy = run(load(service.url, service.headers, bodies, clients=CAPACITY_CLIENTS, seconds=seconds / 4))
        capacity = busy.accepted / busy.took
        pace = poisson(2 * capacity, 64)
        crowd, memory = run.watched(load(service.url, service.headers, bodies, clients=64, seconds=seconds, pause=pace))
    rows = [_row("alone", method, alone), _row("capacity", method, busy), _row("overload", method, crowd)]
    slowdown = rows[2]["p99_s"] / rows[0]["p99_s"]
    third = max(len(memory) // 3, 1)
    rows[2] |= {
        "offered_per_s": 2 * capacity, "measured": slowdown, "target": f"< {TARGET_SLOWDOWN:g} x the p99 alone",
        "rss_first_third_bytes": float(np.median(memory[:third])),
        "rss_last_third_bytes": float(np.median(memory[-third:])),
    }  # fmt: skip
    return rows


def batching(method: str, seconds: float, turns: int, words: int | None) -> list[dict[str, Any]]:
    """Requests a second with batching on and off, measured in turns."""
    tallies: dict[str, list[Tally]] = {"on": [], "off": []}
    patient = {"METHOD": method, "CACHE_BYTES": "0", "QUEUE__SECONDS": "60"}
    with ServiceProcess(**patient) as on, ServiceProcess(**patient, BATCHING__ENABLED="false") as off:
        for turn in range(turns):
            for name, service in (("on", on), ("off", off))[:: -1 if turn % 2 else 1]:
                bodies = Bodies(1, 2, words=words)
                for duration in (WARM_UP_SECONDS, seconds):
                    tally = asyncio.run(load(service.url, service.headers, bodies, clients=32, seconds=duration))
                tallies[name].append(tally)
    note = f"passages of {words} words" if words else "passages of about 130 tokens"
    rows = [_row(f"batching {name}", method, _together(found)) | {"note": note} for name, found in tallies.items()]
    gain = rows[0]["accepted_per_s"] / rows[1]["accepted_per_s"]
    print(f"  {note}: {gain:.2f} x")
    rows[0] |= {"measured": gain, "target": f">= {TARGET_BATCHING:g} x off"}
    return rows


def sigterm(method: str, seconds: float) -> dict[str, Any]:
    """SIGTERM under load: clients send until no connection is taken any more, or, as a balancer, until not ready."""
    bodies = Bodies(1, 2)
    with ServiceProcess(METHOD=method, CACHE_BYTES="0", QUEUE__SECONDS="60") as service:

        async def scenario() -> Tally:
            stop = asyncio.Event()
            running = asyncio.create_task(load(service.url, service.headers, bodies, clients=16, stop=stop))
            await asyncio.sleep(seconds)
            service.process.send_signal(signal.SIGTERM)
            async with httpx.AsyncClient(base_url=service.url) as balancer:
                while (await balancer.get("/readyz")).status_code == 200:
                    await asyncio.sleep(0.05)
            stop.set()
            return await running

        tally = asyncio.run(scenario())
        ended = service.process.wait(60)
    row = _row("sigterm", method, tally)
    return row | {"measured": len(tally.lost), "target": "0 lost", "note": f"exit status {ended}"}


class _Runner:
    """Runs clients against one service, with its memory watched if wanted."""

    def __init__(self, service: ServiceProcess) -> None:
        self._service = service

    def __call__(self, work: Any) -> Tally:
        tally: Tally = asyncio.run(work)
        return tally

    def watched(self, work: Any) -> tuple[Tally, list[int]]:
        """The tally, and the resident memory every second."""
        memory: list[int] = []

        async def watch() -> None:
            while True:
                memory.append(self._service.rss_bytes())
                await asyncio.sleep(SAMPLE_SECONDS)

        async def both() -> Tally:
            watching = asyncio.create_task(watch())
            try:
                tally: Tally = await work
                return tally
            finally:
                watching.cancel()

        return asyncio.run(both()), memory


def _together(tallies: Sequence[Tally]) -> Tally:
    whole = Tally(took=sum(t.took for t in tallies))
    for tally in tallies:
        whole.statuses += tally.statuses
        whole.seconds += tally.seconds
        whole.lost += tally.lost
    return whole


def _row(part: str, method: str, tally: Tally) -> dict[str, Any]:
    for lost in tally.lost[:5]:
        print(f"  no answer: {lost}")
    blank = dict.fromkeys(
        ("offered_per_s", "rss_first_third_bytes", "rss_last_third_bytes", "measured", "target", "note"), ""
    )
    row: dict[str, Any] = {"part": part, "method": method, **tally.row(), **blank}
    print("  {part}: {accepted} accepted, {refused} refused, {errors} errors, {accepted_per_s:.2f}/s, "
          "p50 {p50_s:.3f} s, p99 {p99_s:.3f} s".format(**row), flush=True)  # fmt: skip
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", default="overload,batching,sigterm", help="comma-separated")
    parser.add_argument("--method", default="sentence_pruner")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the overload")
    parser.add_argument("--alone", type=int, default=100, help="requests of the single client")
    parser.add_argument("--turns", type=int, default=4, help="of batching on and off, each a quarter of --seconds")
    parser.add_argument("--out", type=Path, default=RESULTS / "service_load.csv")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    began = time.perf_counter()
    for part in options.parts.split(","):
        print(part, flush=True)
        if part == "overload":
            rows += overload(options.method, options.seconds, options.alone)
        elif part == "batching":
            for words in (None, SHORT_WORDS):
                rows += batching(options.method, options.seconds / 4, options.turns, words)
        elif part == "sigterm":
            rows.append(sigterm(options.method, min(5.0, options.seconds)))
        else:
            parser.error(f"no part {part!r}: there are overload, batching, sigterm")
    write_csv(options.out, rows, SERVICE_PACKAGES)
    print(f"{options.out}: {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
