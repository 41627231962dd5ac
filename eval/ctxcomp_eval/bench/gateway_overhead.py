"""Seconds that the gateway adds to a request that it only passes on. Writes results/gateway_overhead.csv.

    python -m ctxcomp_eval.bench.gateway_overhead

A model server and the gateway run in processes of their own on loopback. One client with kept-alive connections asks
directly and through the gateway in turns, so that both see the same machine; the server answers at once. ``answer`` is
the time to the whole answer, ``first_byte`` the time to the first byte of a stream's first event. The rows ``added``
are percentiles of the differences, pair by pair.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from tqdm import tqdm

from ctxcomp.counting import resolve_counter
from ctxcomp_eval.bench.common import RESULTS, percentiles, wiki_texts, write_csv

PACKAGES = ("ctxcomp", "fastapi", "starlette", "uvicorn", "httpx", "h11", "httptools", "uvloop")
TARGETS = {"answer": 0.003, "first_byte": 0.005}
ANSWER = {"role": "assistant", "content": "It burnt down in 1707. " * 20}
EVENTS = 20
START_SECONDS = 60
BYPASS = {"x-ctxcomp-bypass": "true"}


async def model_server(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI app that answers every completion at once, as a stream if it is asked to."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    stream = b'"stream": true' in body
    kind = b"text/event-stream" if stream else b"application/json"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    if stream:
        event = json.dumps(
            {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "word "}}]}
        )
        for _ in range(EVENTS):
            await send({"type": "http.response.body", "body": f"data: {event}\n\n".encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
    else:
        answer = {"object": "chat.completion", "choices": [{"index": 0, "message": ANSWER, "finish_reason": "stop"}]}
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def gateway(upstream: str, store: str) -> Any:
    """The service in front of one upstream."""
    from ctxcomp_service import Settings, create_app

    settings: dict[str, Any] = {"upstreams": {"up": {"url": upstream}}, "store": {"path": store}}
    return create_app(Settings(preload=False, method="bm25", log_level="warning", **settings))


@contextmanager
def running(role: str, *arguments: str) -> Iterator[str]:
    """One of the two servers in a process of its own; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ctxcomp_eval.bench.gateway_overhead", "--serve", role, str(port), *arguments]
    process = subprocess.Popen(command)
    try:
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the {role} did not start") from None
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def prompt(tokens: int) -> str:
    """Wikipedia text of about this many tokens, with a question."""
    count = resolve_counter().count
    texts: list[str] = []
    for text in wiki_texts():
        texts.append(text)
        if sum(map(count, texts)) >= tokens:
            break
    return "\n\n".join(texts) + "\n\nWhen was it founded?"


def answer_seconds(client: httpx.Client, url: str, body: bytes) -> float:
    """One request, to the end of its answer."""
    began = time.perf_counter()
    client.post(f"{url}/v1/chat/completions", content=body).raise_for_status()
    return time.perf_counter() - began


def first_byte_seconds(client: httpx.Client, url: str, body: bytes) -> float:
    """One request, to the first byte of its stream; the rest is read outside of the time."""
    began = time.perf_counter()
    with client.stream("POST", f"{url}/v1/chat/completions", content=body) as answer:
        answer.raise_for_status()
        pieces = answer.iter_raw()
        next(pieces)
        seconds = time.perf_counter() - began
        for _ in pieces:
            pass
    return seconds


def measure(direct: str, through: str, text: str, repeats: int) -> list[dict[str, Any]]:
    """Rows for both kinds of answer: direct, through the gateway, and the difference."""
    tokens = resolve_counter().count(text)
    rows = []
    with httpx.Client(headers={"content-type": "application/json", **BYPASS}, timeout=30) as client:
        for what, call in (("answer", answer_seconds), ("first_byte", first_byte_seconds)):
            fields = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": what == "first_byte"}
            body = json.dumps(fields).encode()
            pairs = []
            for i in tqdm(range(repeats + 50), desc=what, disable=None):
                urls = (direct, through) if i % 2 else (through, direct)
                seconds = {url: call(client, url, body) for url in urls}
                if i >= 50:
                    pairs.append((seconds[direct], seconds[through]))
            columns = {
                "direct": [d for d, _ in pairs], "gateway": [g for _, g in pairs], "added": [g - d for d, g in pairs],
            }  # fmt: skip
            for path, column in columns.items():
                target = TARGETS[what] if path == "added" else ""
                row = {"measure": what, "path": path, "tokens": tokens, "body_bytes": len(body), "requests": repeats}
                rows.append({**row, **percentiles(column), "target_p50_s": target})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS / "gateway_overhead.csv")
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        role, port, *rest = options.serve
        app = model_server if role == "upstream" else gateway(*rest)
        uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)
        return
    with ExitStack() as stack:
        store = stack.enter_context(tempfile.TemporaryDirectory())
        direct = stack.enter_context(running("upstream"))
        through = stack.enter_context(running("gateway", f"{direct}/v1", f"{store}/originals.sqlite"))
        rows = measure(direct, through, prompt(options.tokens), options.repeats)
    write_csv(options.out, rows, PACKAGES)
    for row in rows:
        print("{measure:>10} {path:>8}: p20 {p20_s:.5f}  p50 {p50_s:.5f}  p80 {p80_s:.5f} s".format(**row))


if __name__ == "__main__":
    main()
