"""Checks that configuration fields hold what their annotations say, with errors a user can act on."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin

from ctxcomp.errors import InputError, UnknownMethodError


@functools.cache
def field_types(cls: Any) -> dict[str, Any]:
    """The resolved annotation of each field of a dataclass that can be set."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def check_fields(instance: Any) -> None:
    """Check every field of simple type; lists become tuples, so that the instance stays hashable.

    Raises
    ------
    InputError: a value is not what the field takes.
    """
    for name, kind in field_types(type(instance)).items():
        value = getattr(instance, name)
        if isinstance(value, list):
            value = tuple(value)
            object.__setattr__(instance, name, value)
        if not _accepts(kind, value):
            raise InputError(f"{name} must be {_describe(kind)}, got {value!r}")


def known_fields(cls: type, names: Iterable[str], method: str) -> None:
    """Refuse names that are not fields of ``cls``, with the nearest one.

    Raises
    ------
    UnknownMethodError: a name is not a field.
    """
    known = field_types(cls)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f": did you mean {near[0]!r}?" if near else f"; it has {', '.join(sorted(known))}"
            raise UnknownMethodError(f"{method} has no field {name!r}{hint}")


def parse_value(text: str) -> Any:
    """A field value from the command line: JSON if it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _accepts(kind: Any, value: Any) -> bool:
    origin = get_origin(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(kind))
    if origin in (Union, types.UnionType):
        return any(_accepts(part, value) for part in get_args(kind))
    if origin is tuple:
        item = get_args(kind)[0]
        return isinstance(value, tuple) and all(_accepts(item, v) for v in value)
    if kind is type(None):
        return value is None
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (str, bool):
        return isinstance(value, kind)
    return origin is not None or not isinstance(kind, type) or isinstance(value, kind)


def _describe(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(part) for part in get_args(kind))
    if origin is tuple:
        return f"a list of {_describe(get_args(kind)[0])}"
    if kind is type(None):
        return "None"
    return {str: "text", bool: "true or false", int: "a whole number", float: "a number"}.get(kind, str(kind))
