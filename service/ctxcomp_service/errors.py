"""What the service answers when something is wrong: one shape, every status documented.

    {"error": {"type": "rate_limit_error", "code": "rate_limited", "message": "...", "request_id": "..."}}

The shape is OpenAI's, so that its clients raise their own exceptions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException

from ctxcomp.errors import CtxcompError, InputError
from ctxcomp_service.logs import request_id

log = logging.getLogger(__name__)

MESSAGE_CHARACTERS = 1000

KINDS = {
    400: ("invalid_request_error", "The request cannot be read: malformed JSON, a wrong header."),
    401: ("authentication_error", "No key was given, or no such key exists."),
    403: ("permission_error", "This key may not use this method or upstream."),
    404: ("not_found_error", "There is no such thing here, or it has expired."),
    405: ("invalid_request_error", "This address does not take this HTTP method."),
    409: ("conflict_error", "The request contradicts an earlier one."),
    408: ("timeout_error", "The body did not arrive in time."),
    413: ("invalid_request_error", "The request is larger than this service takes."),
    422: ("invalid_request_error", "A field of the request has a value that it cannot have."),
    429: ("rate_limit_error", "This key has used up its rate or its tokens; `Retry-After` says when to come back."),
    500: ("api_error", "The service failed; the log has the request's id."),
    502: ("upstream_error", "The language model's server failed or cannot be reached."),
    503: ("overloaded_error", "The service is busy, starting or stopping; `Retry-After` says when to come back."),
    504: ("timeout_error", "The work was not done in time."),
}
"""Each status that the service answers on purpose: the type in the body, and when."""

WITH_RETRY = (429, 503)


class ErrorDetail(BaseModel):
    """What went wrong."""

    type: str = Field(examples=["rate_limit_error"])
    code: str = Field(examples=["rate_limited"])
    message: str = Field(examples=["60 requests a minute are allowed for this key: wait 3 s"])
    request_id: str = Field(examples=["4f9c0a1be2d34b6f"])


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorDetail


class ServiceError(HTTPException):
    """An error with its HTTP status.

    Parameters
    ----------
    status: one of `KINDS`.
    code: a word for programs, such as "rate_limited".
    message: what was given, what is allowed, what to do; it reaches the caller only.
    retry_after: seconds after which trying again makes sense, for 429 and 503.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after: float | None = None) -> None:
        headers = {} if retry_after is None else {"Retry-After": str(max(1, math.ceil(retry_after)))}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, message, headers)
        self.code = code


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route: these errors and those that any route can answer, for OpenAPI."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted({400, 408, 422, 500, *statuses}):
        found[status] = {"model": ErrorBody, "description": KINDS[status][1]}
        if status in WITH_RETRY:
            found[status]["headers"] = {
                "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}
            }
    return found


def error_response(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An answer in the shape of all errors."""
    kind = KINDS.get(status, ("api_error" if status >= 500 else "invalid_request_error", ""))[0]
    short = message if len(message) <= MESSAGE_CHARACTERS else message[:MESSAGE_CHARACTERS] + " …"
    # A lone surrogate, which JSON can carry and UTF-8 cannot, would fail here.
    clean = short.encode("utf-8", "replace").decode("utf-8")
    detail = ErrorDetail(type=kind, code=code, message=clean, request_id=request_id.get())
    return JSONResponse(ErrorBody(error=detail).model_dump(), status, dict(headers or {}))


def as_response(error: HTTPException | StarletteHTTPException) -> JSONResponse:
    """The answer for an HTTP error, ours or the framework's."""
    code = error.code if isinstance(error, ServiceError) else str(error.status_code)
    return error_response(error.status_code, code, str(error.detail), error.headers)


def as_service_error(error: CtxcompError) -> ServiceError:
    """An error of the library with its status: the caller's mistakes are 422, the rest is ours, and logged."""
    if isinstance(error, InputError):
        return ServiceError(422, "invalid_input", str(error))
    # Other errors of the library speak of files and packages, never of what a caller sent.
    log.error("a method or the store failed", extra={"reason": str(error)}, exc_info=error)
    return ServiceError(503, "method_unavailable", "this method cannot run now; the log has the reason", retry_after=30)


def install(app: FastAPI) -> None:
    """Give every error of an app the same shape."""

    @app.exception_handler(StarletteHTTPException)
    async def http_error(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return as_response(error)

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
        # Neither the input nor the context of an error is repeated: they may hold text.
        found = [(_place(e["loc"]), str(e["msg"]), e["type"]) for e in error.errors()]
        if any(kind == "json_invalid" for _, _, kind in found):
            return error_response(400, "malformed_json", "the body is not JSON")
        message = "; ".join(f"{where}: {what}" for where, what, _ in found[:5])
        return error_response(422, "invalid_field", message)

    @app.exception_handler(CtxcompError)
    async def library_error(_: Request, error: CtxcompError) -> JSONResponse:
        return as_response(as_service_error(error))


def _place(location: Sequence[str | int]) -> str:
    """Where in a request something is wrong, without the name of the form that its body was read as."""
    where = list(location)
    if where[:2] in (["body", "passages"], ["body", "messages"]):
        del where[1]
    return ".".join(map(str, where))
