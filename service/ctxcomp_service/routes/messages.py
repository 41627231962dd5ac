"""The messages form of POST /v1/compress, which gateways such as LiteLLM speak."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from ctxcomp.messages import Place
from ctxcomp.messages.locate import MIN_CHARACTERS
from ctxcomp_service.auth import Caller
from ctxcomp_service.conversation import Section, shorten
from ctxcomp_service.headers import is_bypassed, set_token_headers
from ctxcomp_service.logs import request_id
from ctxcomp_service.schemas import BudgetIn
from ctxcomp_service.service import Service
from ctxcomp_service.wanted import Wanted

EXAMPLE: dict[str, JsonValue] = {
    "model": "gpt-4o",
    "messages": [
        {
            "role": "user",
            "content": "<context>Middlemarch is a novel by George Eliot. It was published in eight parts from 1871 on. "
            "Its subtitle is A Study of Provincial Life. George Gissing wrote New Grub Street, which appeared in 1891 "
            "and deals with writers in London.</context>\nWho wrote Middlemarch?",
        }
    ],
    "budget": {"keep": 0.4},
}


class MessagesConfig(BaseModel):
    """What other compression services take as ``config``; fields that are not here have no effect."""

    model_config = ConfigDict(extra="allow")

    compress_user_messages: bool = Field(True, description="Context in user messages, too.")
    target_ratio: float | None = Field(None, gt=0, le=1, description="As `budget.keep`, if there is no budget.")
    protect_recent: int = Field(0, ge=0, le=2**31, description="The last messages, as many as this, stay as they are.")
    frozen_message_count: int = Field(0, ge=0, le=2**31, description="The first messages, as many, stay as they are.")
    mode: str | None = Field(None, max_length=100, description='"ccr" is `markers: true`.')


class MessagesRequest(Wanted):
    """Chat messages in OpenAI's shape. Context in them is found, and everything else stays to the character."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [EXAMPLE]})

    messages: list[dict[str, JsonValue]]
    model: str | None = Field(None, max_length=200, description="The model whose tokenizer counts, such as gpt-4o.")
    token_budget: int | None = Field(None, ge=0, le=2**53, description="As `budget.tokens`, if there is no budget.")
    keep_originals: bool = Field(True, description="Keep what was shortened for GET /v1/retrieve.")
    config: MessagesConfig = Field(default_factory=lambda: MessagesConfig.model_validate({}))

    @model_validator(mode="before")
    @classmethod
    def _can_be_sent_back(cls, body: Any) -> Any:
        """Python reads NaN and lone surrogates from JSON, and cannot write them."""
        try:
            json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text holds half a character, a lone surrogate: send whole characters") from None
        except ValueError:
            raise ValueError("NaN and Infinity are not JSON") from None
        return body

    def wanted(self) -> Wanted:
        """What is wanted, in our own words."""
        config = self.config
        budget = self.budget
        if budget is None and self.token_budget is not None:
            budget = BudgetIn(tokens=self.token_budget)
        elif budget is None and config.target_ratio is not None:
            budget = BudgetIn(keep=config.target_ratio)
        roles = self.roles if config.compress_user_messages else tuple(role for role in self.roles if role != "user")
        return Wanted(
            query=self.query,
            context=self.context,
            budget=budget,
            method=self.method,
            options=self.options,
            share=self.share,
            roles=roles,
            markers=True if config.mode == "ccr" and self.markers is None else self.markers,
            frozen=max(self.frozen, config.frozen_message_count),
            recent=max(self.recent, config.protect_recent),
        )

    def ignored(self) -> list[str]:
        """Fields that have no effect here."""
        return sorted([*(self.model_extra or {}), *(f"config.{name}" for name in self.config.model_extra or {})])


class ContextOut(BaseModel):
    """A piece of a message that was taken for context."""

    message: int
    part: int | None = Field(description="Index of the content part; null where the content is a string.")
    start: int = Field(description="In characters of the text as it came.")
    end: int
    passages: int
    how: str = Field(description="What marked it.", examples=["tag <context>"])
    query: str = Field(description="The question it was compressed for.")
    query_from: str = Field(description="Where that was taken from.", examples=["last user message"])


class OriginalOut(BaseModel):
    """A text that was shortened, and the id of its original."""

    message: int
    part: int | None
    hash: str


class MessagesResponse(BaseModel):
    """The messages with their context compressed, as many and in the same order as came in."""

    messages: list[dict[str, JsonValue]]
    tokens_before: int = Field(description="Of all text in the messages.")
    tokens_after: int
    tokens_saved: int
    compression_ratio: float = Field(description="tokens_after / tokens_before: small is short. Our word is keep.")
    transforms_applied: list[str]
    ccr_hashes: list[str] = Field(description="Ids that marks in the text name; gateways offer a tool for them.")
    hashes: list[OriginalOut] = Field(description="All originals that were kept, see GET /v1/retrieve/{hash}.")
    located: list[ContextOut] = Field(description="What was taken as context, and as the question for it.")
    budget: BudgetIn | None = Field(description="What applied; null where the request was bypassed.")
    method: str | None
    counter: str
    fallback: str | None = Field(description="Why context is as it came; null where it is not.")
    note: str | None = Field(description="Why nothing was taken as context, and what to do; null where something was.")
    ignored: list[str] = Field(description="Fields of the request that have no effect here.")
    request_id: str


async def compress_messages_form(
    request: Request, response: Response, caller: Caller, body: MessagesRequest
) -> MessagesResponse:
    """Compress the context in chat messages, for a gateway to send on."""
    service: Service = request.app.state.service
    wanted = body.wanted()
    bypassed = is_bypassed(request.headers)
    if bypassed:
        wanted = wanted.model_copy(update={"roles": ()})
        response.headers["x-ctxcomp-bypass"] = "true"
    done = await shorten(service, caller, body.messages, wanted, model=body.model, keep=body.keep_originals)
    method = None if bypassed else done.method
    set_token_headers(response.headers, done.tokens_in, done.tokens_out, method, done.fallback)
    budget = wanted.budget_for(caller)
    changed = any(new is not old for new, old in zip(done.messages, body.messages, strict=True))
    return MessagesResponse(
        messages=done.messages,
        tokens_before=done.tokens_in,
        tokens_after=done.tokens_out,
        tokens_saved=done.tokens_in - done.tokens_out,
        compression_ratio=done.tokens_out / done.tokens_in if done.tokens_in else 1.0,
        transforms_applied=[f"ctxcomp:{done.method}"] if changed else [],
        ccr_hashes=done.marked,
        hashes=[OriginalOut(message=i, part=part, hash=key) for (i, part), key in done.originals.items()],
        located=[_context(section, place) for section in done.sections for place in section.located.places],
        budget=None if bypassed else BudgetIn(tokens=budget.tokens, keep=budget.keep),
        method=method,
        counter=done.counter,
        fallback=done.fallback,
        note=_note(done.sections, bypassed),
        ignored=body.ignored(),
        request_id=request_id.get(),
    )


def _note(sections: Sequence[Section], bypassed: bool) -> str | None:
    if bypassed:
        return "bypassed, as the request's header asks"
    if any(section.located.places for section in sections):
        return None
    return (
        f"no context of {MIN_CHARACTERS} characters or more was recognised in the messages that may be changed: put it "
        'between <context> and </context>, name it in the field "context", or send query and passages instead'
    )


def _context(section: Section, place: Place) -> ContextOut:
    message, part = section.where(place)
    return ContextOut(
        message=message, part=part, start=place.start, end=place.end, passages=len(place.passages), how=place.how,
        query=section.located.query, query_from=section.located.query_from,
    )  # fmt: skip
