"""Which texts of chat messages are context, and what the question is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from ctxcomp.errors import InputError
from ctxcomp.messages.content import check_messages, mark_of, texts_of
from ctxcomp.messages.cut import trimmed
from ctxcomp.messages.json_texts import values
from ctxcomp.messages.prose import is_prose
from ctxcomp.messages.regions import Reading, Region, json_region, read, tagged, whole
from ctxcomp.messages.types import Located, Place

Finder: TypeAlias = Callable[[Mapping[str, Any]], Iterable[str]]

MIN_CHARACTERS = 200
"""About 50 tokens: less is not worth a change."""
LONGEST_REST = 500
"""Characters beside the context that are taken for the query as they are; of more, only the paragraphs that ask."""
EXPLICIT = ("field", "find()")
"""How places are called that the caller marked."""
TOOL_ROLES = frozenset({"tool", "function"})
# What is left of tags, delimiters and labels around a context.
_ANNOUNCEMENT = re.compile(
    r"(?mi)^[ \t]*(?:</?[\w.:-]{1,64}>|[-=*_#`~\"']{3,}|[^\n:：?？]{1,60}[:：]|"
    r"[-=# ]{0,8}(?:begin|start|end)\b[^\n:?]{3,40})[ \t]*$"
)


def locate(
    messages: Sequence[Mapping[str, Any]],
    *,
    query: str | None = None,
    roles: Sequence[str] = ("user", "tool", "function"),
    min_characters: int = MIN_CHARACTERS,
    find: Finder | None = None,
) -> Located:
    """Find the context in chat messages, and the question it is for.

    Parameters
    ----------
    messages: OpenAI's shape; content a string, a list of parts, or None. Not modified.
    query: what the context is for; None takes it from the last user message.
    roles: whose messages are looked into. System messages are left alone unless ``"system"`` is here.
    min_characters: a text with less context than this is left alone.
    find: takes a message and returns the pieces of its text that are context, as strings that occur in it in this
        order; then nothing else is looked for.

    Raises
    ------
    InputError: ``messages`` are no messages, or what ``find`` returns does not occur in them.
    """
    check_messages(messages)
    if query is not None and not isinstance(query, str):
        raise InputError(f"query must be a str or None, got {type(query).__name__}")
    if isinstance(roles, str):
        raise InputError(f"roles must be a list of roles, got the str {roles!r}: write ({roles!r},)")
    places: list[Place] = []
    readings: dict[tuple[int, int | None], Reading] = {}
    for i, message in enumerate(messages):
        role = message.get("role")
        found = _found(find, message, i) if find and role in roles else []
        for part, text in texts_of(message):
            mark = mark_of(message, part)
            if role != "user" and role not in roles and mark != "context":
                continue
            pieces = Reading(tuple(_of_strings(text, found))) if find else None
            reading = pieces or _read(text, str(role), mark, min_characters)
            readings[i, part] = reading
            if role in roles or mark == "context":
                places += [_place(i, part, region) for region in reading.regions]
        if found:
            raise InputError(f"find() returned {len(found)} pieces that do not occur in messages[{i}], in this order")
    if query is not None:
        return Located(query, "given", tuple(places))
    asked, query_from = _query(messages, readings)
    # Without a question nothing says what of the context matters, unless the caller says what the context is.
    return Located(asked, query_from, tuple(place for place in places if asked or place.how.startswith(EXPLICIT)))


def _read(text: str, role: str, mark: str | None, min_characters: int) -> Reading:
    if mark == "keep" or (mark is None and len(text) < min_characters):
        return read(text, min_characters=len(text) + 1)
    if mark == "context":
        region = whole(text, "field")
        return Reading((region,) if region else ())
    if role in TOOL_ROLES:
        reading = Reading(tuple(_of_tool(text)))
        return reading if reading.size >= min_characters else Reading()
    return read(text, min_characters=min_characters)


def _found(find: Finder, message: Mapping[str, Any], i: int) -> list[str]:
    found = find(message)
    if isinstance(found, str) or not isinstance(found, Iterable):
        raise InputError(f"find() must return a list of str, got {type(found).__name__} for messages[{i}]")
    pieces = list(found)
    if not all(isinstance(one, str) for one in pieces):
        raise InputError(f"find() must return a list of str, and returned something else in it for messages[{i}]")
    return [one for one in pieces if one.strip()]


def _of_strings(text: str, wanted: list[str]) -> Iterator[Region]:
    """The wanted pieces that stand in this text; they are taken from the list."""
    at = 0
    while wanted and (start := text.find(wanted[0], at)) >= 0:
        at = start + len(wanted.pop(0))
        region = whole(text, "find()", start, at)
        if region:
            yield region


def _of_tool(text: str) -> list[Region]:
    """The context in a tool's answer: its tags, the texts in its JSON, else all of it unless it is data or code."""
    start, end = trimmed(text, 0, len(text))
    regions = tagged(text)
    if regions:
        return regions
    stretches = list(values(text, start, end))
    if sum(b - a for a, b in stretches) > 0.5 * (end - start):
        region = json_region(text, stretches[0][0], stretches[-1][1])
        return [region] if region.pieces and not region.is_code else []
    everything = whole(text, "tool message") if is_prose(text) else None
    return [everything] if everything else []


def _place(message: int, part: int | None, region: Region) -> Place:
    passages = tuple(piece.passage for piece in region.pieces)
    slots = tuple(piece.slot for piece in region.pieces)
    return Place(message, part, region.start, region.end, passages, region.how, slots)


def _query(
    messages: Sequence[Mapping[str, Any]], readings: Mapping[tuple[int, int | None], Reading]
) -> tuple[str, str]:
    """The question of the last user message that has one."""
    users = [i for i, message in enumerate(messages) if message.get("role") == "user"]
    for age, i in enumerate(reversed(users)):
        where = "last user message" if age == 0 else "an earlier user message"
        texts = [(readings[i, part], text) for part, text in texts_of(messages[i]) if (i, part) in readings]
        for reading, text in reversed(texts):
            if reading.question and reading.regions:
                return text[slice(*reading.question)], f"{reading.question_from} of the {where}"
        rest = "\n\n".join(filter(None, (_outside(text, reading) for reading, text in texts)))
        if len(rest) > LONGEST_REST and any(reading.regions for reading, _ in texts):
            asking = [paragraph for paragraph in rest.split("\n\n") if "?" in paragraph or "？" in paragraph]
            if asking:
                return "\n\n".join(asking), f"questions of the {where}"
        if rest:
            return rest, where
    return "", "nowhere: no user message asks anything"


def _outside(text: str, reading: Reading) -> str:
    """The text outside of its context, without the labels that announce the context."""
    edges = [0, *(at for region in reading.regions for at in (region.start, region.end)), len(text)]
    rest = [text[a:b].strip() for a, b in zip(edges[::2], edges[1::2], strict=True)]
    if reading.regions:
        rest = [_ANNOUNCEMENT.sub("", piece).strip() for piece in rest]
    return "\n\n".join(filter(None, rest))
