"""Passing an upstream's answer on as it comes. When the client goes away, the middleware cancels what runs here."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

import httpx
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ctxcomp_service.errors import ServiceError, error_response
from ctxcomp_service.headers import answer_headers

ANSWER_BYTES = 67_108_864
"""The most that an answer that is not streamed may have."""

EVENTS = "text/event-stream"

log = logging.getLogger(__name__)


async def relay(answer: httpx.Response, upstream: str, extra: Mapping[str, str]) -> Response:
    """The response to send for an upstream's answer, which is open and will be closed.

    Raises
    ------
    ServiceError: 502 or 504, what came is no answer.
    """
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if answer.is_success and kind == EVENTS:
        return EventRelay(answer, upstream, extra)
    try:
        body = await read(answer)
    except httpx.TransportError as error:
        raise failure(error, upstream) from error
    finally:
        await answer.aclose()
    if answer.is_success:
        _check_json(body, upstream)
    elif not answer.is_error:
        raise ServiceError(502, "upstream_redirects", f"upstream {upstream!r} answered {answer.status_code}")
    headers = answer_headers(answer.headers) | dict(extra)
    # An error page in HTML must not become a page of this origin.
    headers["content-type"] = "application/json" if kind.endswith("json") or answer.is_success else "text/plain"
    return Response(body, answer.status_code, headers | {"x-content-type-options": "nosniff"})


def failure(error: httpx.TransportError, upstream: str) -> ServiceError:
    """What the client learns of a connection that failed: which upstream and how, no address."""
    if isinstance(error, httpx.PoolTimeout):
        return ServiceError(503, "upstream_busy", f"all connections to upstream {upstream!r} are in use", retry_after=1)
    if isinstance(error, httpx.ConnectTimeout):
        return ServiceError(504, "upstream_timeout", f"upstream {upstream!r} took no connection in time")
    if isinstance(error, httpx.TimeoutException):
        return ServiceError(504, "upstream_timeout", f"upstream {upstream!r} did not answer in time")
    if isinstance(error, httpx.ConnectError):
        return ServiceError(502, "upstream_unreachable", f"upstream {upstream!r} cannot be reached")
    return ServiceError(502, "upstream_failed", f"upstream {upstream!r} broke the connection off")


class EventRelay(Response):
    """Server-sent events, forwarded byte for byte as they arrive; the upstream is let go when the client is gone."""

    def __init__(self, answer: httpx.Response, upstream: str, extra: Mapping[str, str]) -> None:
        self.status_code = answer.status_code
        self.background = None
        self.body = b""
        self._answer = answer
        self._upstream = upstream
        headers = {"content-type": f"{EVENTS}; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}
        self.init_headers(answer_headers(answer.headers) | headers | dict(extra))
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward until either side ends."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._forward(send)
        finally:
            await self._answer.aclose()

    async def _forward(self, send: Send) -> None:
        tail = b"\n\n"
        try:
            async for piece in self._answer.aiter_raw():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                tail = (tail + piece)[-4:]
        except httpx.TransportError as error:
            problem = failure(error, self._upstream)
            if not tail.endswith((b"\n\n", b"\r\n\r\n", b"\r\r")):
                # Inside of an event nothing can be said. Without a last chunk the server breaks the connection off,
                # which no client takes for the end.
                log.warning("a stream broke off", extra={"upstream": self._upstream, "error": type(error).__name__})
                return
            body = bytes(error_response(problem.status_code, problem.code, str(problem.detail)).body)
            await send({"type": "http.response.body", "body": b"data: " + body + b"\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def read(answer: httpx.Response) -> bytes:
    """The whole body.

    Raises
    ------
    ServiceError: 502, it is too large.
    httpx.TransportError: it does not come.
    """
    pieces: list[bytes] = []
    left = ANSWER_BYTES
    async for piece in answer.aiter_raw():
        left -= len(piece)
        if left < 0:
            raise ServiceError(502, "upstream_too_large", f"an upstream answered with more than {ANSWER_BYTES} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _check_json(body: bytes, upstream: str) -> None:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        raise ServiceError(
            502, "upstream_not_json", f"upstream {upstream!r} answered with something that is no JSON"
        ) from None
