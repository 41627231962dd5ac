"""The queue and the worker, with real methods and without a server."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from ctxcomp import Budget, BudgetError, Passage, Request, load
from ctxcomp_service.batching import Batcher
from ctxcomp_service.errors import ServiceError
from ctxcomp_service.methods import Plan
from ctxcomp_service.queueing import FairQueue, Job
from ctxcomp_service.settings import Batching, Queue

BM25 = Plan("bm25", "bm25", load("bm25"))
TEXT = "George Eliot wrote it. It has eight parts. Blackwood published it in 1871."


def request(i=0, **changes):
    given = {"query": f"Who wrote it {i}?", "passages": (Passage(f"{TEXT} {i}."),), "budget": Budget(keep=0.4)}
    return Request(**{**given, **changes})


def run(scenario, **settings):
    sizes = []

    async def main():
        batcher = Batcher(Batching(**settings), Queue(seconds=60), sizes.append)
        batcher.start()
        try:
            return await scenario(batcher)
        finally:
            await batcher.stop()

    return asyncio.run(main()), sizes


def test_a_batch_is_its_singles():
    requests = [request(i) for i in range(20)]

    async def scenario(batcher):
        return await asyncio.gather(*(batcher.run(BM25, r, "") for r in requests))

    done, sizes = run(scenario, wait_ms=20, seconds=60)
    assert [d.result.text for d in done] == [load("bm25").compress_batch([r])[0].text for r in requests]
    assert sizes == [20]
    assert all(d.queued > 0.01 for d in done)
    _, sizes = run(scenario, enabled=False)
    assert sizes == [1] * 20
    _, sizes = run(scenario, requests=8, seconds=60)
    assert sizes == [8, 8, 4]


def test_a_bad_request_fails_alone():
    bad = request(budget=Budget(tokens=1), passages=(Passage(TEXT, metadata={"protect": [[0, 40]]}),))

    async def scenario(batcher):
        tasks = [batcher.run(BM25, r, "") for r in (request(1), bad, request(2))]
        return await asyncio.gather(*tasks, return_exceptions=True)

    (first, second, third), sizes = run(scenario)
    assert sizes == [3]
    assert isinstance(second, BudgetError)
    assert "George Eliot" in first.result.text
    assert "George Eliot" in third.result.text


def test_different_plans_and_works_do_not_mix():
    other = Plan("truncate", "truncate", load("truncate"))

    def texts(plan, requests):
        return [r.query for r in requests]

    async def scenario(batcher):
        runs = [
            batcher.run(BM25, request(1), ""),
            batcher.run(other, request(2), ""),
            batcher.run(BM25, request(3), "", texts),
        ]
        return await asyncio.gather(*runs)

    (one, two, three), sizes = run(scenario)
    assert (one.result.stats.method, two.result.stats.method, three.result) == ("bm25", "truncate", "Who wrote it 3?")
    assert sizes == [1, 1, 1]


def test_lanes_take_turns():
    order = []
    opened = threading.Event()

    def note(plan, requests):
        opened.wait(10)
        order.extend(r.query for r in requests)
        return list(requests)

    async def scenario(batcher):
        many = [asyncio.ensure_future(batcher.run(BM25, request(query=f"many {i}"), "many", note)) for i in range(6)]
        await asyncio.sleep(0.05)
        few = [asyncio.ensure_future(batcher.run(BM25, request(query=f"few {i}"), "few", note)) for i in range(2)]
        await asyncio.sleep(0.05)
        opened.set()
        await asyncio.gather(*many, *few)

    run(scenario, requests=1)
    assert order.index("few 0") <= 2
    assert order.index("few 1") <= 4


def test_who_goes_away_leaves_the_queue():
    opened = threading.Event()
    seen = []

    def note(plan, requests):
        opened.wait(10)
        seen.extend(r.query for r in requests)
        return list(requests)

    async def scenario(batcher):
        tasks = [asyncio.ensure_future(batcher.run(BM25, request(query=str(i)), "", note)) for i in range(3)]
        await asyncio.sleep(0.05)
        tasks[1].cancel()
        await asyncio.sleep(0.01)
        opened.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results, _ = run(scenario, requests=1)
    assert seen == ["0", "2"]
    assert isinstance(results[1], asyncio.CancelledError)


def test_work_that_nobody_waits_for_is_given_up():
    # Enough text for seconds of encoder passes, between which the worker looks up.
    passages = tuple(Passage(f"{i} " + "The novel has eight parts and a finale. " * 200) for i in range(300))
    plan = Plan("embedding_select", "embedding_select", load("embedding_select"))

    async def scenario(batcher):
        await batcher.run(plan, request(), "")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await batcher.run(plan, request(passages=passages), "")
        began = time.monotonic()
        await batcher.run(plan, request(), "")
        return time.monotonic() - began

    seconds, _ = run(scenario)
    assert seconds < 8


def test_stopping_finishes_what_waits():
    async def main():
        batcher = Batcher(Batching(), Queue())
        batcher.start()
        tasks = [asyncio.ensure_future(batcher.run(BM25, request(i), "")) for i in range(10)]
        await asyncio.sleep(0)
        await batcher.stop()
        return await asyncio.gather(*tasks)

    assert len(asyncio.run(main())) == 10


def scenario_of_estimates(queue, pace=0.001):
    queue._pace = {"bm25": pace}

    def job(lane="a", n=700):
        made = Job(BM25, request(query="", passages=(Passage("x" * n),)), lane, list, asyncio.Future())
        assert made.size == n + 300
        return made

    return job


def test_what_would_wait_too_long_is_refused():
    async def main():
        queue = FairQueue(Queue(seconds=3.5, slowdown=1, requests=100))
        job = scenario_of_estimates(queue)  # a second each
        queue.put(job(n=99_700))  # nothing else is there: it is taken, however long it is
        [long] = queue.take(Batching())
        queue.finish([long])
        queue._pace = {"bm25": 0.001}
        for _ in range(3):
            queue.put(job())
        with pytest.raises(ServiceError) as refused:
            queue.put(job())
        assert refused.value.status_code == 503
        assert refused.value.headers["Retry-After"] == "4"
        for _ in range(3):
            queue.take(Batching(enabled=False))
        assert queue.waiting == 0

    asyncio.run(main())


def test_a_full_lane_leaves_room_for_others():
    async def main():
        queue = FairQueue(Queue(seconds=4.5, slowdown=1, requests=100))
        job = scenario_of_estimates(queue)
        for _ in range(4):
            queue.put(job("greedy"))
        with pytest.raises(ServiceError):
            queue.put(job("greedy"))
        queue.put(job("modest"))
        assert [j.lane for j in queue.take(Batching(enabled=False))] == ["greedy"]
        assert [j.lane for j in queue.take(Batching(enabled=False))] == ["modest"]

    asyncio.run(main())


def test_long_requests_may_wait_in_proportion():
    async def main():
        queue = FairQueue(Queue(seconds=1, slowdown=2.5, requests=100))
        job = scenario_of_estimates(queue)
        queue.put(job(n=9_700))
        queue.put(job(n=9_700))  # 20 s to the answer of 10 s of work
        with pytest.raises(ServiceError):
            queue.put(job(n=9_700))
        with pytest.raises(ServiceError):
            queue.put(job("other", n=700))

    asyncio.run(main())


def test_a_batch_is_bounded_by_its_work():
    async def main():
        queue = FairQueue(Queue(seconds=60))
        job = scenario_of_estimates(queue, pace=0.0001)  # 0.1 s each
        for _ in range(5):
            queue.put(job())
        queue.put(job(n=9_700))
        assert len(queue.take(Batching(seconds=0.35))) == 3
        assert len(queue.take(Batching(seconds=0.35))) == 2
        assert len(queue.take(Batching(seconds=0.35))) == 1

    asyncio.run(main())


def test_the_pace_is_learned_but_not_from_the_first_or_from_outliers():
    async def main():
        queue = FairQueue(Queue(seconds=60))
        job = scenario_of_estimates(queue)
        queue._pace = {}
        for seconds in (5.0, 0.1, 100.0):
            queue.put(job())
            batch = queue.take(Batching())
            queue._running_since -= seconds
            queue.finish(batch)
        assert queue._pace["bm25"] * 1000 == pytest.approx(0.1 + 0.2 * (0.4 - 0.1), rel=0.05)

    asyncio.run(main())
