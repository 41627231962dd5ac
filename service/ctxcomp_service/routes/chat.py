"""POST /v1/chat/completions: compress, forward to the model's upstream, pass the answer on as it comes."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from ctxcomp.messages.content import without_marks
from ctxcomp_service.auth import Known
from ctxcomp_service.conversation import Shortened, is_marked, shorten
from ctxcomp_service.errors import ServiceError, documented
from ctxcomp_service.headers import is_bypassed, request_headers, set_token_headers
from ctxcomp_service.local import open_local
from ctxcomp_service.rawjson import RawObject, elements, read_object
from ctxcomp_service.relay import failure, relay
from ctxcomp_service.service import Service
from ctxcomp_service.upstreams import Upstream, Upstreams
from ctxcomp_service.wanted import Wanted

OWN = "ctxcomp"
"""The member of a request, of a message and of a content part that is for us and goes no further."""

WANTED_SCHEMA = Wanted.model_json_schema(ref_template="#/components/schemas/{model}")
BODY = {
    "type": "object",
    "required": ["model", "messages"],
    "properties": {
        "model": {"type": "string", "description": "Decides on the upstream, see GET /v1/models."},
        "messages": {"type": "array", "items": {"type": "object"}},
        "stream": {"type": "boolean"},
        OWN: {"anyOf": [{k: v for k, v in WANTED_SCHEMA.items() if k != "$defs"}, {"type": "boolean"}]},
    },
    "example": {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "<context>…</context>\nWho wrote Middlemarch?"}],
        OWN: {"budget": {"tokens": 500}},
    },
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "What the upstream answered.", "content": {"application/json": {}, "text/event-stream": {}}},
    "default": {"description": "Errors of the upstream, with its status and body."},
}


@contextlib.asynccontextmanager
async def _connected(app: FastAPI) -> AsyncIterator[None]:
    settings = app.state.service.settings
    local = [await open_local(settings.generator)] if settings.generator else []
    app.state.upstreams = Upstreams(settings.upstreams, *local)
    try:
        yield
    finally:
        await app.state.upstreams.close()


router = APIRouter(lifespan=_connected, tags=["gateway"])


@router.post(
    "/v1/chat/completions",
    response_class=Response,
    responses=ANSWERS | documented(401, 403, 404, 413, 429, 502, 503, 504),
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": BODY}}}},
)
async def chat_completions(request: Request, caller: Known) -> Response:
    """OpenAI's chat completions, with the context in the messages compressed on the way.

    The member `ctxcomp` says how, `false` turns it off, and neither reaches the upstream; nor does the key for this
    service. Everything else goes through to the character.
    """
    body = await request.body()
    given = _read(request, body)
    upstream, model = _upstream(request, given)
    wanted = None if is_bypassed(request.headers) else _wanted(given)
    extra = {"x-ctxcomp-upstream": upstream.name}
    messages: Any = given.values.get("messages")
    if wanted is None:
        extra["x-ctxcomp-bypass"] = "true"
        fresh = _stripped(messages) if b'"ctxcomp"' in body else messages
    else:
        done = await shorten(request.app.state.service, caller, messages, wanted, model=model, keep=False)
        fresh = done.messages
        _describe(extra, done)
    return await _forward(request, upstream, rewritten(body, given, model, fresh), extra, original=body)


def rewritten(body: bytes, given: RawObject, model: str, messages: Any) -> bytes:
    """The body for the upstream. What did not change is the characters that came; messages that did are new JSON."""
    changes: dict[str, str | None] = {OWN: None} if OWN in given.texts else {}
    if model != given.values["model"]:
        changes["model"] = json.dumps(model)
    before: Any = given.values.get("messages")
    if messages is not before and any(new is not old for new, old in zip(messages, before, strict=True)):
        texts = elements(given.texts["messages"])
        rows = zip(messages, before, texts, strict=True)
        changes["messages"] = f"[{','.join(text if new is old else json.dumps(new) for new, old, text in rows)}]"
    return given.replaced(changes) if changes else body


def _read(request: Request, body: bytes) -> RawObject:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a form of a page elsewhere cannot send this unasked
        raise ServiceError(400, "content_type", "send the body with content-type: application/json")
    try:
        return read_object(body)
    except ValueError as error:
        raise ServiceError(400, "malformed_json", f"the body is no JSON object that can be read: {error}") from None


def _upstream(request: Request, given: RawObject) -> tuple[Upstream, str]:
    model = given.values.get("model")
    if not isinstance(model, str) or not model:
        raise ServiceError(422, "invalid_field", "model: give the name of a model, see GET /v1/models")
    upstreams: Upstreams = request.app.state.upstreams
    found = upstreams.find(model)
    if found is None:
        raise ServiceError(404, "model_not_found", "no upstream is configured for this model, see GET /v1/models")
    return found


def _wanted(given: RawObject) -> Wanted | None:
    """What the member of ours says; None where nothing is to be done."""
    own = given.values.get(OWN)
    if own is False:
        return None
    try:
        return Wanted.model_validate({} if own in (None, True) else own)
    except ValidationError as error:
        found = error.errors(include_input=False, include_context=False, include_url=False)
        raise RequestValidationError([{**e, "loc": ("body", OWN, *e["loc"])} for e in found]) from None


def _stripped(messages: Any) -> Any:
    """The messages of a bypassed request without what they say to us."""
    if not isinstance(messages, list):
        return messages
    return [without_marks(message) if is_marked(message) else message for message in messages]


def _describe(extra: dict[str, str], done: Shortened) -> None:
    """What was done, in headers; which pieces of the messages were taken as context, without their text."""
    set_token_headers(extra, done.tokens_in, done.tokens_out, done.method, done.fallback)
    places = [
        f"messages[{section.where(place)[0]}]: {place.how}"
        for section in done.sections
        for place in section.located.places
    ]
    located = ", ".join(places[:20]) + (", …" if len(places) > 20 else "")
    extra["x-ctxcomp-located"] = located.encode("ascii", "replace").decode() or "nothing"


async def _forward(
    request: Request, upstream: Upstream, body: bytes, extra: Mapping[str, str], *, original: bytes
) -> Response:
    service: Service = request.app.state.service
    headers = request_headers(request.headers, pass_authorization=_passes_authorization(request, upstream))
    began = time.perf_counter()
    try:
        answer = await upstream.open("POST", "/chat/completions", headers, body, original=original)
    except httpx.TransportError as error:
        raise failure(error, upstream.name) from error
    service.metrics.stage.labels("upstream").observe(time.perf_counter() - began)
    return await relay(answer, upstream.name, extra)


def _passes_authorization(request: Request, upstream: Upstream) -> bool:
    """Whether the client's Authorization may go on: never where it is, or might be, a key of ours."""
    opened_by_it = bool(request.app.state.service.settings.keys) and "x-api-key" not in request.headers
    return upstream.pass_authorization and not opened_by_it
