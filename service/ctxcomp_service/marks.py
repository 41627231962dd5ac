"""A visible mark where context was left out, with the id under which the original can be had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ctxcomp.messages import Place

TEMPLATE = "\n[Shortened: parts of the context above are left out. Full text: hash={id}]"


def mark_of(original_id: str) -> str:
    """The mark for an original."""
    return TEMPLATE.format(id=original_id)


def text_of(message: Mapping[str, Any], part: int | None) -> str:
    """A text of a message: its content, or that of one part."""
    content = message["content"]
    found = content if part is None else content[part]
    return str(found["text"] if isinstance(found, Mapping) else found)


def can_be_marked(place: Place) -> bool:
    """Whether a mark may stand behind a place: JSON must stay JSON."""
    return not any(slot.json for slot in place.slots)


def marked(before: Mapping[str, Any], after: Mapping[str, Any], places: Sequence[Place], mark: str) -> dict[str, Any]:
    """The shortened message with a mark behind the last place of one text.

    Parameters
    ----------
    before, after: the message as it came, and shortened.
    places: all of the same text, in order.
    """
    last = places[-1]
    old, new = text_of(before, last.part), text_of(after, last.part)
    at = len(new) - (len(old) - last.end)  # what follows the last place is as it was
    text = new[:at].rstrip() + mark + new[at:]
    if last.part is None:
        return {**after, "content": text}
    content = list(after["content"])
    part = content[last.part]
    content[last.part] = {**part, "text": text} if isinstance(part, Mapping) else text
    return {**after, "content": content}
