"""Shortening the context in chat messages through the service: located, compressed turn by turn, put back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, TypeAlias

from ctxcomp.counting import resolve_counter
from ctxcomp.messages import CompressedMessages, Located, Place, apply, count_messages, locate, tighter
from ctxcomp.messages.content import MARK, check_messages, without_marks
from ctxcomp.types import Budget, Request
from ctxcomp_service.auth import Caller
from ctxcomp_service.errors import ServiceError
from ctxcomp_service.explicit import named, outside
from ctxcomp_service.marks import can_be_marked, mark_of, marked, text_of
from ctxcomp_service.service import Outcome, Service
from ctxcomp_service.wanted import Wanted

Message: TypeAlias = Mapping[str, Any]
Where: TypeAlias = tuple[int, int | None]
"""A text of the conversation: its message, and its part or None."""

TIGHTENINGS = 3
"""How often a result that is a token over its budget, for what stands around it, is made again."""


@dataclass(frozen=True, slots=True)
class Section:
    """Messages whose context shares a question and a budget.

    Parameters
    ----------
    at: where its messages stand in the conversation.
    located: their context; its message numbers are positions in ``at``.
    """

    at: tuple[int, ...]
    located: Located

    def where(self, place: Place) -> Where:
        """The text that a place is in."""
        return self.at[place.message], place.part


@dataclass(slots=True)
class Shortened:
    """A conversation with shorter context.

    Parameters
    ----------
    messages: those in which nothing changed are the very objects that came in.
    sections: what was taken as question and as context.
    originals: the ids of the texts that were shortened, if they were kept.
    marked: those of them that a mark in the text names.
    fallback: why some or all of the context is as it came; None where it is not.
    """

    messages: list[Any]
    sections: Sequence[Section] = ()
    originals: dict[Where, str] = field(default_factory=dict)
    marked: list[str] = field(default_factory=list)
    tokens_in: int = 0
    tokens_out: int = 0
    method: str = ""
    counter: str = ""
    fallback: str | None = None


async def shorten(
    service: Service, caller: Caller, messages: Sequence[Message], wanted: Wanted, *, model: str | None, keep: bool
) -> Shortened:
    """Compress the context in messages for a caller.

    Parameters
    ----------
    model: whose tokenizer counts.
    keep: whether the texts that are shortened are kept for `/v1/retrieve`; marks keep them in any case.

    Raises
    ------
    ServiceError: what `Service.compress` raises, and 504 if it all takes too long.
    InputError: a message or an option cannot be used.
    """
    work = _Work(service, caller, wanted, model, keep)
    method = wanted.method or caller.method
    await asyncio.to_thread(service.catalogue.plan, method, wanted.options, model)  # wrong names are errors always
    sections = await asyncio.to_thread(sections_of, messages, wanted)
    done = Shortened(list(messages), sections, method=method)
    try:
        async with asyncio.timeout(service.settings.limits.seconds):
            for section in sections:
                await work.shorten(section, done)
    except TimeoutError:
        if caller.on_failure == "closed":
            raise ServiceError(504, "too_slow", f"not done within {service.settings.limits.seconds:g} s") from None
        service.metrics.fallbacks.labels("too_slow").inc()
        done.fallback = "too_slow"
    done.messages = [without_marks(m) if is_marked(m) else m for m in done.messages]
    await asyncio.to_thread(_count, messages, done, work.counter)
    return done


def sections_of(messages: Sequence[Message], wanted: Wanted) -> list[Section]:
    """The context of a conversation, by who shares a budget.

    With ``share="message"`` what becomes of a message depends on nothing that comes after it.
    """
    located = _located(messages, wanted)
    kept = range(wanted.frozen, len(messages) - wanted.recent)
    places = tuple(place for place in located.places if place.message in kept)
    if not places:
        return []
    if wanted.share == "conversation":
        return [Section(tuple(range(len(messages))), replace(located, places=places))]
    newest = max((i for i, m in enumerate(messages) if m.get("role") == "assistant"), default=-1)
    sections = []
    for i, own in groupby(places, key=lambda place: place.message):
        asked = located if wanted.query is not None and i > newest else _question(messages, i, wanted, located.places)
        moved = tuple(replace(place, message=0) for place in own)
        sections.append(Section((i,), Located(asked.query, asked.query_from, moved)))
    return sections


def _located(messages: Sequence[Message], wanted: Wanted) -> Located:
    if wanted.context is None:
        return locate(messages, query=wanted.query, roles=wanted.roles)
    check_messages(messages)
    places = named(messages, wanted.context, wanted.roles)
    if wanted.query is not None:
        return Located(wanted.query, "given", places)
    return replace(_question(messages, len(messages) - 1, wanted, places), places=places)


def _question(messages: Sequence[Message], i: int, wanted: Wanted, places: Sequence[Place]) -> Located:
    """The question that the context of message ``i`` is for.

    That of the last user message up to it; for what stands before all questions, the first one after it.
    """
    for at in (*range(i, -1, -1), *range(i + 1, len(messages))):
        if messages[at].get("role") != "user":
            continue
        if wanted.context is None:
            asked = locate(messages[at : at + 1], roles=())
        else:
            own = [place for place in places if place.message == at]
            asked = Located(outside(messages[at], own), "last user message", ())
        if asked.query:
            return replace(asked, query_from=asked.query_from.replace("last user message", f"user message {at}"))
    return Located("", "nowhere: no user message asks anything", ())


def is_marked(message: Any) -> bool:
    """Whether a message, or a part of it, says by ``"ctxcomp"`` what it is, which is for us alone."""
    content = message.get("content") if isinstance(message, Mapping) else None
    parts = content if isinstance(content, list) else ()
    return any(isinstance(holder, Mapping) and MARK in holder for holder in (message, *parts))


@dataclass(frozen=True, slots=True)
class _Work:
    """One caller's wishes, applied to section after section."""

    service: Service
    caller: Caller
    wanted: Wanted
    model: str | None
    keep: bool

    @property
    def counter(self) -> str | None:
        """The tokenizer that counts."""
        return self.service.catalogue.counter(self.model)

    async def shorten(self, section: Section, done: Shortened) -> None:
        """Shorten one section's messages in ``done``."""
        before = [done.messages[i] for i in section.at]
        marks, budget = await self._marks(section, before)
        outcome, after = await self._compress(section, before, budget)
        done.fallback = done.fallback or outcome.fallback
        for (i, part), own in groupby(section.located.places, key=section.where):
            places = list(own)
            place = places[0]
            old, new = before[place.message], after.messages[place.message]
            original = text_of(old, part)
            if text_of(new, part) == original:
                continue
            if mark := marks.get((i, part)):
                after.messages[place.message] = marked(old, new, places, mark_of(mark))
                done.marked.append(mark)
            if mark or self.keep:
                done.originals[i, part] = mark or await self.service.keep_original(self.caller, original)
        for i, old, new in zip(section.at, before, after.messages, strict=True):
            done.messages[i] = old if new == old else new

    async def _compress(
        self, section: Section, before: Sequence[Message], budget: Budget
    ) -> tuple[Outcome, CompressedMessages]:
        first = [Request(section.located.query, section.located.passages, budget)]
        requests, wanted = first, self.wanted
        for _ in range(TIGHTENINGS):
            outcome = await self.service.compress(
                self.caller, requests[0], wanted.method, wanted.options, model=self.model
            )
            after = await asyncio.to_thread(apply, before, section.located, [outcome.result], counter=self.counter)
            requests = [] if outcome.fallback else tighter(first, after)
            if not requests:
                break
        return outcome, after

    async def _marks(self, section: Section, before: Sequence[Message]) -> tuple[dict[Where, str], Budget]:
        """The original's id for each text that will be marked, and what budget the marks leave."""
        budget = self.wanted.budget_for(self.caller)
        if not (self.caller.markers if self.wanted.markers is None else self.wanted.markers):
            return {}, budget
        counter = await asyncio.to_thread(resolve_counter, self.counter)
        tokens = await asyncio.to_thread(counter.count, "\n\n".join(p.text for p in section.located.passages))
        allowed = budget.resolve(tokens)
        if tokens <= allowed:
            return {}, budget
        texts = [
            (where, text_of(before[group[0].message], where[1]))
            for where, own in groupby(section.located.places, key=section.where)
            if all(map(can_be_marked, group := list(own)))
        ]
        marks = {where: await self.service.keep_original(self.caller, text) for where, text in texts}
        room = allowed - sum(counter.count(mark_of(mark)) for mark in marks.values())
        return (marks, Budget(tokens=room)) if room > 0 else ({}, budget)


def _count(messages: Sequence[Message], done: Shortened, counter: str | None) -> None:
    for old, new in zip(messages, done.messages, strict=True):
        n = count_messages([old], counter)
        done.tokens_in += n
        done.tokens_out += n if new is old else count_messages([new], counter)
    done.counter = resolve_counter(counter).name
