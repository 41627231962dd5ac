"""Context that the caller names: the very texts, as they stand in the messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ctxcomp.messages import Place, Slot
from ctxcomp.messages.content import texts_of
from ctxcomp.types import Passage
from ctxcomp_service.errors import ServiceError


def named(messages: Sequence[Mapping[str, Any]], texts: Sequence[str], roles: Sequence[str]) -> tuple[Place, ...]:
    """Where the named texts stand; each is one passage, and is taken at its first place that is still free.

    Raises
    ------
    ServiceError: 422, a text is not in the messages of these roles.
    """
    places: list[Place] = []
    for number, wanted in enumerate(texts):
        found = next(_free(messages, wanted, roles, places), None) if wanted else None
        if found is None:
            raise ServiceError(
                422, "context_not_found", f"context[{number}] is not in the messages: give it as it stands there"
            )
        places.append(found)
    return tuple(sorted(places, key=lambda p: (p.message, -1 if p.part is None else p.part, p.start)))


def _free(messages: Sequence[Mapping[str, Any]], wanted: str, roles: Sequence[str], taken: Sequence[Place]) -> Any:
    for i, message in enumerate(messages):
        for part, text in texts_of(message) if message.get("role") in roles else ():
            busy = [(p.start, p.end) for p in taken if (p.message, p.part) == (i, part)]
            start = text.find(wanted)
            while start >= 0:
                end = start + len(wanted)
                if all(end <= a or b <= start for a, b in busy):
                    yield Place(i, part, start, end, (Passage(wanted),), "field", (Slot(start, end, start, end),))
                start = text.find(wanted, end)


def outside(message: Mapping[str, Any], places: Sequence[Place]) -> str:
    """The text of a message without its named context."""
    pieces: list[str] = []
    for part, text in texts_of(message):
        at = 0
        for place in places:
            if place.part == part:
                pieces.append(text[at : place.start])
                at = place.end
        pieces.append(text[at:])
    return "\n".join(filter(None, (piece.strip() for piece in pieces)))
