"""POST /v1/compress: the native form, and the messages form of the gateways."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from pydantic import Discriminator, Tag

import ctxcomp
from ctxcomp_service.auth import Caller, Known
from ctxcomp_service.errors import ServiceError, documented
from ctxcomp_service.logs import request_id
from ctxcomp_service.routes.messages import MessagesRequest, MessagesResponse, compress_messages_form
from ctxcomp_service.schemas import CompressRequest, CompressResponse, PassageOut, SpanOut, StatsOut, UnitOut
from ctxcomp_service.service import Outcome, Service

router = APIRouter()


def _form(body: Any) -> str:
    has_messages = "messages" in body if isinstance(body, dict) else isinstance(body, MessagesRequest)
    return "messages" if has_messages else "passages"


Form = Annotated[
    Annotated[CompressRequest, Tag("passages")] | Annotated[MessagesRequest, Tag("messages")], Discriminator(_form)
]


@router.post("/v1/compress", responses=documented(401, 403, 413, 429, 503, 504), tags=["compress"])
async def compress(
    request: Request, response: Response, caller: Known, body: Annotated[Form, Body()]
) -> CompressResponse | MessagesResponse:
    """Compress passages, or the context in chat messages, under a token budget."""
    if isinstance(body, MessagesRequest):
        return await compress_messages_form(request, response, caller, body)
    return await compress_passages(request.app.state.service, response, caller, body)


async def compress_passages(
    service: Service, response: Response, caller: Caller, body: CompressRequest
) -> CompressResponse:
    """The native form."""
    budget = body.budget.to_budget() if body.budget else caller.budget
    if budget is None:
        raise ServiceError(422, "no_budget", 'budget: give {"tokens": N} or {"keep": F}; this key has no default')
    given = ctxcomp.Request(body.query, body.to_passages(), budget)
    outcome = await service.compress(
        caller, given, body.method, body.options, model=body.model, scores="scores" in body.include
    )
    set_headers(response, outcome)
    return _response(outcome)


def set_headers(response: Response, outcome: Outcome) -> None:
    """What an answer says of its tokens, and of its fallback."""
    stats = outcome.result.stats
    response.headers["x-ctxcomp-tokens-in"] = str(stats.tokens_in)
    response.headers["x-ctxcomp-tokens-out"] = str(stats.tokens_out)
    if outcome.fallback:
        response.headers["x-ctxcomp-fallback"] = outcome.fallback


def _response(outcome: Outcome) -> CompressResponse:
    result, stats = outcome.result, outcome.result.stats
    spans = None
    if result.spans is not None:
        spans = [SpanOut(passage=s.passage, start=s.start, end=s.end, score=s.score) for s in result.spans]
    units = None if outcome.units is None else [UnitOut(**asdict(unit)) for unit in outcome.units]
    return CompressResponse(
        text=result.text,
        spans=spans,
        units=units,
        passages=[PassageOut(id=p.id, text=t) for p, t in zip(result.passages, result.passage_texts, strict=True)],
        stats=StatsOut(
            tokens_in=stats.tokens_in, tokens_out=stats.tokens_out, keep=stats.keep, seconds=stats.seconds,
            method=stats.method, counter=stats.counter, fallback=outcome.fallback, notes=list(stats.notes),
        ),
        request_id=request_id.get(),
    )  # fmt: skip
