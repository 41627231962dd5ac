"""Messages of other kinds as OpenAI's dictionaries, and back: LangChain's, (role, text) pairs, a plain string."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ctxcomp.errors import InputError

_ROLES = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant", "HumanMessageChunk": "user"}


def as_messages(value: Any) -> list[dict[str, Any]]:
    """OpenAI's shape of messages.

    Parameters
    ----------
    value: a str (a user's message), or mappings, LangChain messages and (role, text) pairs in any mixture.

    Raises
    ------
    InputError: names the first thing that is no message.
    """
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if isinstance(value, (bytes, Mapping)) or not isinstance(value, Iterable):
        raise InputError(f"messages must be a list of messages or a str, got {type(value).__name__}")
    return [_as_message(one, i) for i, one in enumerate(value)]


def with_messages(value: Any, fresh: Sequence[Mapping[str, Any]]) -> Any:
    """``value`` with the content of ``fresh``, of the same kinds; messages whose content is the same are the same.

    Parameters
    ----------
    value: what `as_messages` took: a str, a list or a tuple.
    fresh: the messages it gave, perhaps with other content.
    """
    if isinstance(value, str):
        return fresh[0]["content"]
    changed = [_with_content(one, new) for one, new in zip(value, fresh, strict=True)]
    return tuple(changed) if isinstance(value, tuple) else changed


def _as_message(one: Any, i: int) -> dict[str, Any]:
    if isinstance(one, Mapping):
        return dict(one)
    if isinstance(one, str):
        return {"role": "user", "content": one}
    if isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str):
        return {"role": _ROLES.get(one[0], one[0]), "content": one[1]}
    role = getattr(one, "role", None) or getattr(one, "type", None)
    if isinstance(role, str):  # a call or a reasoning step of a client's own kind has no content, and passes through
        return {"role": _ROLES.get(role, role), "content": getattr(one, "content", None)}
    raise InputError(f"messages[{i}] must be a mapping or a message with role and content, got {type(one).__name__}")


def _with_content(one: Any, fresh: Mapping[str, Any]) -> Any:
    if isinstance(one, Mapping):
        return one if fresh == one else dict(fresh)
    content = fresh["content"]
    if isinstance(one, str):
        return content
    if isinstance(one, tuple):
        return one if content == one[1] else (one[0], content)
    return one if content == getattr(one, "content", None) else replaced(one, "content", content)


def replaced(one: Any, name: str, value: Any) -> Any:
    """A copy of an object with another value of one attribute; pydantic's own way where it has one."""
    if hasattr(one, "model_copy"):
        return one.model_copy(update={name: value})
    duplicate = copy.copy(one)
    setattr(duplicate, name, value)
    return duplicate
