"""What surrounds every route: request ids, logs, metrics, keys, body bounds, headers, and clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctxcomp_service.errors import ServiceError, as_response, error_response
from ctxcomp_service.logs import acceptable_id, request_id
from ctxcomp_service.service import Service

log = logging.getLogger("ctxcomp_service")

PRIVATE = "/v1/"
"""Addresses below it need a caller."""

GONE = 499
"""Logged and counted where the client left before an answer began."""

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Set where a route does not set its own."""


class Observed:
    """Outermost: the request id in and out, headers, a trace, one log line and the metrics of each answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        service: Service = scope["app"].state.service
        headers = Headers(scope=scope)
        token = request_id.set(acceptable_id(headers.get("x-request-id")))
        began, status = time.perf_counter(), 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _set_headers(MutableHeaders(scope=message), closing=service.draining)
            await send(message)

        try:
            with service.tracer.request(headers) as span:
                try:
                    await self.app(scope, receive, observed_send)
                except Exception:
                    # The last resort. Of the error only the places are logged: its text may be a caller's.
                    log.exception("a request failed")
                    if not status:
                        answer = error_response(500, "internal_error", "the service failed; its log has this id")
                        await answer(scope, receive, observed_send)
                span.update_name(f"{scope['method']} {_route(scope)}")
                span.set_attributes({"http.response.status_code": status, "ctxcomp.request_id": request_id.get()})
        finally:
            _report(service, scope, status or GONE, time.perf_counter() - began)
            request_id.reset(token)


def _set_headers(headers: MutableHeaders, *, closing: bool) -> None:
    headers["X-Request-Id"] = request_id.get()
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    if closing:
        headers["Connection"] = "close"


def _report(service: Service, scope: Scope, status: int, seconds: float) -> None:
    route = _route(scope)
    service.metrics.requests.labels(route, str(status)).inc()
    service.metrics.seconds.labels(route).observe(seconds)
    caller = scope.get("state", {}).get("caller")
    who = {} if caller is None else {"tenant": caller.tenant, "key": caller.key_id}
    log.info("request", extra={"route": route, "status": status, "seconds": round(seconds, 5), **who})


def _route(scope: Scope) -> str:
    """The route's template: the path itself may hold what a caller wrote."""
    return str(getattr(scope.get("route"), "path", "unmatched"))


class Authenticated:
    """Finds the caller before the body is read, so that strangers cannot make the service read one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it with 401 or 429."""
        if scope["type"] == "http" and scope["path"].startswith(PRIVATE):
            try:
                caller = scope["app"].state.service.keyring.authenticate(Headers(scope=scope))
                scope.setdefault("state", {})["caller"] = caller
                caller.allowance.take_request()
            except ServiceError as error:
                await as_response(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class BodyBound:
    """Refuses bodies that are too large, whether they say so or arrive in chunks, and those that never end.

    Parameters
    ----------
    most: bytes of a body.
    seconds: in which it must have arrived.
    """

    def __init__(self, app: ASGIApp, most: int, seconds: float) -> None:
        self.app = app
        self.most = most
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it with 408 or 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        too_large = ServiceError(413, "body_too_large", f"a body may have at most {self.most:,} bytes")
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self.most:
            await as_response(too_large)(scope, receive, send)
            return
        read, whole = 0, False
        deadline = asyncio.get_running_loop().time() + self.seconds

        async def bounded_receive() -> Message:
            nonlocal read, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise ServiceError(408, "body_too_slow", f"the body must arrive within {self.seconds:g} s") from None
            whole = not message.get("more_body", False)
            read += len(message.get("body", b""))
            if read > self.most:
                raise too_large
            return message

        await self.app(scope, bounded_receive, send)


class StopsWithClient:
    """Cancels the work of a request whose client has gone, so that the queue holds only what is waited for."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request while watching its connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        messages: asyncio.Queue[Message] = asyncio.Queue(1)
        answered = False

        async def watched_send(message: Message) -> None:
            nonlocal answered
            await send(message)
            answered = answered or (message["type"] == "http.response.body" and not message.get("more_body"))

        async def listen() -> None:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    if not answered:
                        work.cancel()
                    return
                await messages.put(message)

        work = asyncio.ensure_future(self.app(scope, messages.get, watched_send))
        ears = asyncio.ensure_future(listen())
        try:
            await work
        except asyncio.CancelledError:
            if not work.cancelled():  # it is this task that was cancelled
                work.cancel()
                raise
        finally:
            ears.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ears
