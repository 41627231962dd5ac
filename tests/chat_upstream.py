"""A chat completions server on loopback that records what it gets, and misbehaves as a model's name asks."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass
class ChatUpstream:
    """The server's memory: every request, and whether a client left.

    The model "gated" goes on after its second piece once the gate is open; "retrieve" calls its first tool with the
    hash that a message names, and repeats what it gets.
    """

    received: list[Received] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    @property
    def last(self) -> Received:
        """The latest request for a completion."""
        return next(r for r in reversed(self.received) if r.path.endswith("/chat/completions"))

    def app(self) -> Starlette:
        """The server."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self.complete, methods=["POST"]),
                Route("/v1/models", self.models),
                Route("/elsewhere", self.models, methods=["GET", "POST"]),
            ]
        )

    async def models(self, request: Request) -> Response:
        """The list of models."""
        self.received.append(Received(request.url.path, dict(request.headers), b""))
        names = ["echo", "slow", "unlisted"]
        data = [{"id": name, "object": "model", "created": 1, "owned_by": "tests"} for name in names]
        return JSONResponse({"object": "list", "data": data})

    async def complete(self, request: Request) -> Response:
        """A completion that repeats the last message's text, or what the model's name asks for."""
        self.received.append(Received(request.url.path, dict(request.headers), await request.body()))
        body = self.received[-1].json
        model = body["model"]
        headers = {
            "x-request-id": "up-1",
            "x-ratelimit-remaining-tokens": "7",
            "set-cookie": "session=upstream",
            "x-ctxcomp-fallback": "forged",
            "www-authenticate": "Basic",
            "access-control-allow-origin": "*",
        }
        if model.startswith("status-"):
            error = {"error": {"message": "as you wish", "type": "tests", "code": "asked_for"}}
            return JSONResponse(error, int(model[7:]), {**headers, "retry-after": "3"})
        if model == "html":
            return HTMLResponse("<script>alert(1)</script>")
        if model == "html-error":
            return HTMLResponse("<h1>Bad gateway</h1>", 502)
        if model == "not-json":
            return Response("{no json", media_type="application/json")
        if model == "redirect":
            return RedirectResponse("/elsewhere", 307)
        if model in ("slow", "hang"):
            try:
                await _until_gone(request, 0.3 if model == "slow" else 30)
            except ConnectionResetError:
                self.left.set()
                return Response(status_code=499)
        if model == "tool":
            return JSONResponse(_tool_call(body, {"city": "Zürich"}))
        if model == "retrieve" and body["messages"][-1]["role"] != "tool":
            found = re.search("hash=([a-f0-9]{24})", json.dumps(body["messages"]))
            return JSONResponse(_tool_call(body, {"hash": found[1]} if found else {}))
        text = _last_text(body)
        if body.get("stream"):
            return StreamingResponse(self._events(text, model), media_type="text/event-stream", headers=headers)
        return JSONResponse(_completion(text, model), headers=headers)

    async def _events(self, text: str, model: str) -> AsyncIterator[bytes]:
        pieces = [text[i : i + 7] for i in range(0, len(text), 7)]
        try:
            yield _event({"role": "assistant", "content": ""}, model)
            for i, piece in enumerate(pieces):
                if i == 2 and model == "stall":
                    await asyncio.sleep(30)
                if i == 2 and model == "break-between":
                    raise ConnectionResetError
                if i == 2 and model == "break-inside":
                    yield b'data: {"choices": [{"delta": {"cont'
                    await asyncio.sleep(0.05)
                    raise ConnectionResetError
                while i == 2 and model == "gated" and not self.gate.is_set():
                    await asyncio.sleep(0.01)
                yield _event({"content": piece}, model)
            yield _event({}, model, "stop")
            yield b"data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.left.set()
            raise


async def _until_gone(request: Request, seconds: float) -> None:
    """Sleep, or raise as soon as the client is gone."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if await request.is_disconnected():
            raise ConnectionResetError
        await asyncio.sleep(0.02)


def _last_text(body: dict[str, Any]) -> str:
    content = body["messages"][-1].get("content") or ""
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _completion(text: str, model: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    head = {"id": "c-1", "object": "chat.completion", "created": 1, "model": model}
    return {**head, "choices": [choice], "usage": usage, "unknown_field": {"kept": True}}


def _tool_call(body: dict[str, Any], arguments: dict[str, str]) -> dict[str, Any]:
    function = {"name": body["tools"][0]["function"]["name"], "arguments": json.dumps(arguments, ensure_ascii=False)}
    call = {"id": "call-1", "type": "function", "function": function}
    answer = _completion("", body["model"])
    answer["choices"][0] |= {"finish_reason": "tool_calls"}
    answer["choices"][0]["message"] = {"role": "assistant", "content": None, "tool_calls": [call]}
    return answer


def _event(delta: dict[str, Any], model: str, finish: str | None = None) -> bytes:
    chunk = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    chunk["choices"] = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


@contextmanager
def running(app: Any) -> Iterator[str]:
    """An ASGI app under uvicorn in a thread, on a free port of loopback; its address."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


@contextmanager
def chat_upstream() -> Iterator[ChatUpstream]:
    """The recording server, running."""
    upstream = ChatUpstream()
    with running(upstream.app()) as url:
        upstream.url = url
        yield upstream
