"""Keys, what they allow, and what strangers get."""

from __future__ import annotations

import socket
import time

import httpx
import pytest

from ctxcomp_service.auth import hash_key, new_key

ALICE, BOB, SLOW, POOR = (new_key() for _ in range(4))
BODY = {"query": "Who wrote it?", "passages": ["George Eliot wrote it. It has eight parts."]}
TEXT = "one two three four five six seven eight nine ten " * 10


def key(name, plain, **policy):
    return {"id": f"{name}-1", "tenant": name, "sha256": hash_key(plain), **policy}


@pytest.fixture(scope="module")
def url(live_server):
    return live_server(
        defaults={"budget": {"keep": 0.5}},
        keys=(
            key("alice", ALICE, methods=("bm25", "truncate"), method="truncate", budget={"tokens": 3}),
            key("bob", BOB),
            key("slow", SLOW, requests_per_minute=3),
            key("poor", POOR, tokens_per_minute=350),
        ),
    )


def post(url, plain, **changes):
    return httpx.post(f"{url}/v1/compress", json={**BODY, **changes}, headers={"authorization": f"Bearer {plain}"})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {ALICE}"},
        {"authorization": ALICE},
        {"authorization": f"Bearer {ALICE}x"},
        {"authorization": f"Bearer {hash_key(ALICE)}"},
        {"x-api-key": "wrong"},
        {"x-api-key": b"\xff\xfe"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/compress", "/v1/methods", "/v1/retrieve/" + "0" * 24, "/v1/nothing"])
def test_strangers_are_refused(url, headers, path):
    answer = httpx.request("POST" if path.endswith("compress") else "GET", url + path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["type"] == "authentication_error"


def test_strangers_are_refused_before_their_body_is_read(url):
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /v1/compress HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert b" 401 " in connection.recv(1000)


@pytest.mark.parametrize("header", [{"authorization": f"bearer  {BOB}"}, {"x-api-key": BOB}])
def test_both_headers_are_taken(url, header):
    assert httpx.get(f"{url}/v1/methods", headers=header).status_code == 200


def test_a_keys_own_method_and_budget(url):
    stats = post(url, ALICE).json()["stats"]
    assert (stats["method"], stats["tokens_out"]) == ("truncate", 3)
    stats = post(url, BOB).json()["stats"]
    assert stats["method"] == "bm25"
    assert stats["keep"] <= 0.5


def test_a_method_that_a_key_may_not_use(url):
    assert post(url, ALICE, method="bm25").status_code == 200
    assert post(url, ALICE, method="bm25+truncate").status_code == 200
    for method in ("random", "bm25+random"):
        answer = post(url, ALICE, method=method)
        assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")
    names = [m["name"] for m in httpx.get(f"{url}/v1/methods", headers={"x-api-key": ALICE}).json()["methods"]]
    assert names == ["truncate", "bm25"]


def test_a_rate(url):
    answers = [post(url, SLOW) for _ in range(5)]
    assert [a.status_code for a in answers] == [200, 200, 200, 429, 429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
    assert answers[-1].json()["error"]["code"] == "rate_limited"
    assert post(url, BOB).status_code == 200


def test_a_token_quota(url):
    answers = [post(url, POOR, passages=[f"{i} {TEXT}"]) for i in range(4)]
    assert [a.status_code for a in answers] == [200, 200, 200, 429]
    assert answers[-1].json()["error"]["code"] == "quota_exceeded"
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_buckets_refill_and_pay_back():
    from ctxcomp_service.limits import Bucket

    bucket = Bucket(10, seconds=0.5)
    bucket.take(10)
    assert 0.04 < bucket.wait_for(1) <= 0.05
    time.sleep(0.06)
    assert bucket.wait_for(1) == 0
    assert Bucket(10, 1).wait_for(1000) == 0  # more than it ever holds: once it is full
    bucket.take(-1000)
    assert bucket.wait_for(10) == 0
    assert bucket.wait_for(11) == 0


def test_an_open_service_answers_to_loopback_names_only(live_server):
    url = live_server()
    assert httpx.get(f"{url}/v1/methods").status_code == 200
    assert httpx.get(f"{url}/v1/methods", headers={"host": "evil.example"}).status_code == 400
    port = url.rpartition(":")[2]
    assert httpx.get(f"http://localhost:{port}/v1/methods", headers={"host": f"localhost:{port}"}).status_code == 200
