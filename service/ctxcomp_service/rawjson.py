"""JSON of which only some members change: the rest goes on as the characters it came as."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


_decode = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant).raw_decode


@dataclass(frozen=True, slots=True)
class RawObject:
    """A JSON object.

    Parameters
    ----------
    values: the members as Python values.
    texts: the characters that each value was read from.
    """

    values: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def replaced(self, changes: dict[str, str | None]) -> bytes:
        """The object with some members' characters replaced, or left out where None; order is kept."""
        members = ((key, changes.get(key, text)) for key, text in self.texts.items())
        return ("{" + ",".join(f"{json.dumps(k)}:{text}" for k, text in members if text is not None) + "}").encode()


def read_object(body: bytes) -> RawObject:
    """Parse a body that is one JSON object.

    Raises
    ------
    ValueError: it is not UTF-8, not JSON, no object, nested too deeply, or has a member twice.
    """
    text = body.decode("utf-8")
    found = RawObject()
    try:
        at = _members(text, found)
    except (RecursionError, IndexError) as error:
        raise ValueError("nested too deeply" if isinstance(error, RecursionError) else "it ends too early") from None
    if at != len(text):
        raise ValueError(f"something follows the object at character {at}")
    return found


def elements(text: str) -> list[str]:
    """The characters of each element of a JSON array that is known to be valid."""
    return list(_elements(text))


def _elements(text: str) -> Iterator[str]:
    at = _skip(text, 1)
    while text[at] != "]":
        _, end = _decode(text, at)
        yield text[at:end]
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at


def _members(text: str, found: RawObject) -> int:
    at = _expect(text, _skip(text, 0), "{")
    if text[at] == "}":
        return _skip(text, at + 1)
    while True:
        key, end = _decode(text, at)
        if not isinstance(key, str):
            raise ValueError(f"a member's name is expected at character {at}")
        if key in found.values:  # which of the two an upstream takes is anyone's guess
            raise ValueError("a member is there twice")
        at = _expect(text, _skip(text, end), ":")
        found.values[key], end = _decode(text, at)
        found.texts[key] = text[at:end]
        at = _skip(text, end)
        if text[at] == "}":
            return _skip(text, at + 1)
        at = _expect(text, at, ",")


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, character: str) -> int:
    """The place after ``character`` and the space behind it."""
    if text[at] != character:
        raise ValueError(f"{character!r} is expected at character {at}")
    return _skip(text, at + 1)
