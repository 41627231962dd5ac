"""The texts of a chat message: its content string, or the text parts of its content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ctxcomp.errors import InputError

TEXT_PARTS = frozenset({"text", "input_text", "text-plain"})
MARK = "ctxcomp"
"""A message or content part may say what it is: ``"ctxcomp": "context"`` or ``"ctxcomp": "keep"``."""
MARKS = ("context", "keep")


def check_messages(messages: Any) -> None:
    """Refuse what is no sequence of messages.

    Raises
    ------
    InputError: names the first thing that is not a message.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InputError(f'messages must be a list of {{"role", "content"}}, got {type(messages).__name__}')
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise InputError(f'messages[{i}] must be a mapping with "role" and "content", got {type(message).__name__}')
        _check_mark(message, f"messages[{i}]")
        content = message.get("content")
        for j, part in enumerate(content if isinstance(content, list) else ()):
            _check_mark(part, f"messages[{i}].content[{j}]")


def texts_of(message: Mapping[str, Any]) -> Iterator[tuple[int | None, str]]:
    """Each text of a message with the index of its part, None for a content string; anything else is passed over."""
    content = message.get("content")
    if isinstance(content, str):
        yield None, content
    elif isinstance(content, (list, tuple)):
        for i, part in enumerate(content):
            if isinstance(part, str):
                yield i, part
            elif isinstance(part, Mapping) and part.get("type") in TEXT_PARTS and isinstance(part.get("text"), str):
                yield i, part["text"]


def with_texts(message: Mapping[str, Any], fresh: Mapping[int | None, str]) -> dict[str, Any]:
    """A copy of a message with some texts replaced; what is not replaced is shared with the original."""
    copy = dict(message)
    if None in fresh:
        copy["content"] = fresh[None]
    elif fresh:
        content = message["content"]
        parts = [
            part if i not in fresh else fresh[i] if isinstance(part, str) else {**part, "text": fresh[i]}
            for i, part in enumerate(content)
        ]
        copy["content"] = parts if isinstance(content, list) else tuple(parts)
    return copy


def mark_of(message: Mapping[str, Any], part: int | None) -> str | None:
    """What a message or its part says it is."""
    mark = message.get(MARK)
    if part is not None and isinstance(message["content"][part], Mapping):
        mark = message["content"][part].get(MARK, mark)
    return mark


def without_marks(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message as other services know it; the same content where it has no mark."""
    copy = {key: value for key, value in message.items() if key != MARK}
    content = message.get("content")
    if isinstance(content, list) and any(isinstance(part, Mapping) and MARK in part for part in content):
        copy["content"] = [
            {k: v for k, v in part.items() if k != MARK} if isinstance(part, Mapping) and MARK in part else part
            for part in content
        ]
    return copy


def _check_mark(holder: Any, where: str) -> None:
    if isinstance(holder, Mapping) and holder.get(MARK) not in (None, *MARKS):
        raise InputError(f'{where}: "{MARK}" must be one of {", ".join(map(repr, MARKS))}')
