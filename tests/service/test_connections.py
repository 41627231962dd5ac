"""Clients that leave, that send too slowly, and that send nonsense."""

from __future__ import annotations

import json
import socket
import time

import httpx
import pytest

LONG = {"query": "?", "budget": {"keep": 0.1}, "method": "embedding_select"}


def connect(server):
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def head(length, path="/v1/compress"):
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.fixture(scope="module")
def server(live_servers):
    return live_servers(limits={"seconds": 20, "body_bytes": 4_000_000})


def counted(server, route, status):
    return server.service.metrics.requests.labels(route, str(status))._value.get()


def test_the_work_of_a_client_that_left_is_given_up(server):
    short = {**LONG, "passages": ["It has eight parts. It was published in 1871."]}
    assert httpx.post(f"{server.url}/v1/compress", json=short, timeout=60).status_code == 200
    passages = [f"{i} " + "The novel has eight parts and a finale. " * 200 for i in range(200)]
    body = json.dumps({**LONG, "passages": passages}).encode()
    with connect(server) as connection:
        connection.sendall(head(len(body)) + body)
        deadline = time.monotonic() + 10
        while server.service.batcher.is_idle and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not server.service.batcher.is_idle
    began = time.monotonic()
    assert httpx.post(f"{server.url}/v1/compress", json={**short, "query": "!"}, timeout=60).status_code == 200
    assert time.monotonic() - began < 8  # the whole of it takes tens of seconds
    assert counted(server, "/v1/compress", 499) == 1


def test_a_client_that_leaves_while_it_sends(server):
    with connect(server) as connection:
        connection.sendall(head(1000) + b'{"query"')
        time.sleep(0.2)
    assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_a_body_that_does_not_arrive(live_servers):
    server = live_servers(limits={"seconds": 0.3})
    with connect(server) as connection:
        connection.sendall(head(1000) + b'{"query"')
        answer = connection.recv(10_000)
    assert b" 408 " in answer.splitlines()[0]
    assert b"body_too_slow" in answer


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", b"POST /v1/compress HTTP/1.1\r\nContent-Length: x\r\n\r\n"])
def test_what_is_no_http(server, sent):
    with connect(server) as connection:
        connection.sendall(sent)
        assert b" 400 " in connection.recv(10_000).splitlines()[0]
    assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_requests_in_one_connection_one_after_the_other(server):
    with connect(server) as connection:
        for _ in range(3):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            answer = b""
            while not answer.endswith(b'{"status":"ok"}'):
                answer += connection.recv(10_000)
            assert b" 200 OK" in answer.splitlines()[0]
