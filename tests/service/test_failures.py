"""What happens when a method fails, time runs out or the queue is full: never silently."""

from __future__ import annotations

import concurrent.futures
import time

import httpx
import pytest

from ctxcomp_service.auth import hash_key, new_key

CLOSED, OPEN = new_key(), new_key()
BODY = {"query": "Who wrote it?", "passages": ["George Eliot wrote it.", "", "It has parts."], "budget": {"tokens": 4}}
KEYS = (
    {"id": "closed", "tenant": "one", "sha256": hash_key(CLOSED)},
    {"id": "open", "tenant": "two", "sha256": hash_key(OPEN), "on_failure": "input"},
)


@pytest.fixture(scope="module")
def broken(live_servers, tmp_path_factory):
    empty = str(tmp_path_factory.mktemp("no-checkpoint"))
    methods = {"bm25": {}, "broken": {"method": "embedding_select", "fields": {"model": empty}}}
    return live_servers(keys=KEYS, methods=methods)


@pytest.fixture(scope="module")
def slow(live_servers):
    return live_servers(keys=KEYS, limits={"seconds": 0.2})


def post(server, key, **changes):
    return httpx.post(f"{server.url}/v1/compress", json={**BODY, **changes}, headers={"x-api-key": key}, timeout=30)


def fallbacks(server, reason):
    text = httpx.get(f"{server.url}/metrics").text
    lines = [x for x in text.splitlines() if x.startswith(f'ctxcomp_fallbacks_total{{reason="{reason}"}}')]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0


def test_a_failing_method_closed(broken):
    answer = post(broken, CLOSED, method="broken")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "method_unavailable")
    assert answer.headers["retry-after"]


def test_a_failing_method_gives_the_input_back_and_says_so(broken):
    before = fallbacks(broken, "method_unavailable")
    answer = post(broken, OPEN, method="broken")
    found = answer.json()
    assert answer.status_code == 200
    assert answer.headers["x-ctxcomp-fallback"] == found["stats"]["fallback"] == "method_unavailable"
    assert found["text"] == "George Eliot wrote it.\n\nIt has parts."
    assert [p["text"] for p in found["passages"]] == BODY["passages"]
    assert [(s["passage"], s["start"], s["end"]) for s in found["spans"]] == [(0, 0, 22), (2, 0, 13)]
    assert found["stats"]["tokens_in"] == found["stats"]["tokens_out"] > 4
    assert fallbacks(broken, "method_unavailable") == before + 1


@pytest.mark.parametrize("change", [{"method": "nothing"}, {"options": {"protect": ["quotes"], "unit": "x"}}])
def test_a_callers_mistake_is_no_failure_to_survive(broken, change):
    assert post(broken, OPEN, **change).status_code == 422


def test_protected_text_that_does_not_fit_is_the_callers_mistake(broken):
    passages = [{"text": "George Eliot wrote it in 1871 and 1872.", "metadata": {"protect": [[0, 39]]}}]
    answer = post(broken, OPEN, passages=passages)
    assert answer.status_code == 422
    assert "protected text alone" in answer.json()["error"]["message"]


def test_a_fallback_is_not_remembered(broken):
    assert post(broken, OPEN, method="broken").headers["x-ctxcomp-fallback"]
    assert post(broken, OPEN, method="broken").headers["x-ctxcomp-fallback"]


@pytest.mark.parametrize(("key", "status"), [(CLOSED, 504), (OPEN, 200)])
def test_time_runs_out(slow, key, status):
    passages = ["The novel has eight parts. It was published by Blackwood. " * 100 + str(key)] * 100
    began = time.monotonic()
    answer = post(slow, key, method="sentence_pruner", passages=passages)
    assert answer.status_code == status
    assert time.monotonic() - began < 15
    if status == 200:
        assert answer.headers["x-ctxcomp-fallback"] == "too_slow"
    deadline = time.monotonic() + 20  # the worker notices that nobody waits, and takes the next one
    while post(slow, CLOSED, method="truncate").status_code != 200:
        assert time.monotonic() < deadline


def test_overload_is_refused_or_passed_through(live_servers):
    server = live_servers(keys=KEYS, queue={"seconds": 0.01, "slowdown": 1.0, "requests": 1}, cache_bytes=0)
    passages = ["The novel has eight parts. It was published by Blackwood. " * 20] * 5
    post(server, CLOSED, method="sentence_pruner", passages=passages)
    for key, statuses in ((CLOSED, {200, 503}), (OPEN, {200})):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            tasks = [
                pool.submit(post, server, key, method="sentence_pruner", passages=passages, query=str(i))
                for i in range(8)
            ]
            answers = [task.result() for task in tasks]
        assert {a.status_code for a in answers} == statuses
        if key == OPEN:
            assert any(a.headers.get("x-ctxcomp-fallback") == "overloaded" for a in answers)
        else:
            assert all(int(a.headers["retry-after"]) >= 1 for a in answers if a.status_code == 503)
