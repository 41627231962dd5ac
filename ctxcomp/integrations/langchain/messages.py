"""LangChain's messages to the plain form of `ctxcomp.messages` and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage

from ctxcomp.integrations.records import Record, stats_record
from ctxcomp.messages import CompressedMessages, locate
from ctxcomp.messages.content import texts_of

ROLES = {"human": "user", "ai": "assistant"}
"""The roles of LangChain's kinds of message, where they differ."""


def plain(message: BaseMessage) -> dict[str, Any]:
    """A message as ``{"role", "content"}``; the content is shared."""
    role = getattr(message, "role", None) or ROLES.get(message.type, message.type)
    return {"role": role, "content": message.content}


def with_content(message: AnyMessage, content: Any) -> AnyMessage:
    """A copy of a message with other content; the message itself if the content is the same."""
    return message if content == message.content else message.model_copy(update={"content": content})


def question_in(messages: Sequence[Any]) -> str:
    """The question of the last user message that asks one, without the context beside it; "" if none does."""
    for message in reversed(messages):
        if isinstance(message, BaseMessage) and message.type == "human":
            question = locate([plain(message)], roles=("user",)).query
            if question:
                return question
    return ""


def turns(messages: Sequence[AnyMessage]) -> Iterator[list[AnyMessage]]:
    """The messages up to each answer of the model, and those after the last one."""
    turn: list[AnyMessage] = []
    for message in messages:
        turn.append(message)
        if isinstance(message, AIMessage):
            yield turn
            turn = []
    if turn:
        yield turn


def record_of(done: CompressedMessages, content: Any, keep_original: bool) -> Record:
    """What was kept of one message that was ``content``.

    ``{"spans": [{"part", "start", "end", "score"}, ...], "stats", "original"}``: offsets are characters of the
    original content, of its part number ``part`` where it has parts. A text with JSON escapes is one span.
    """
    texts = dict(texts_of({"content": content}))
    spans: list[Record] = []
    slots = [(place, slot) for place in done.located.places for slot in place.slots]
    for result in done.results:
        for span in result.spans or ():
            place, slot = slots[span.passage]
            start, end = slot.start, slot.end
            if texts[place.part][start:end] == result.passages[span.passage].text:
                start, end = start + span.start, start + span.end
            spans.append({"part": place.part, "start": start, "end": end, "score": float(span.score)})
    original = {"original": content} if keep_original else {}
    return {"spans": spans, "stats": stats_record(done.results[0].stats), **original}
