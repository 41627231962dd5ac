"""Checks that configuration fields hold what their annotations say, with errors a user can act on."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin

from ctxcomp.errors import InputError


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
    for name, kind in field_types(instance.__class__).items():
        value = getattr(instance, name)
        if isinstance(value, list):
            value = tuple(value)
            object.__setattr__(instance, name, value)
        if not accepts(kind, value):
            raise InputError(f"{name} must be {describe(kind)}, got {value!r}")


def nearest(name: str, known: Iterable[str]) -> str:
    """What to say of an unknown name: the nearest known one, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name.strip().lower(), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


def parse_value(text: str) -> Any:
    """A field value from the command line: JSON if it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def accepts(kind: Any, value: Any) -> bool:
    """Whether a value is of an annotated kind: plain types, tuples, unions and literals."""
    origin = get_origin(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(kind))
    if origin in (Union, types.UnionType):
        return any(accepts(part, value) for part in get_args(kind))
    if origin is tuple:
        item = get_args(kind)[0]
        return isinstance(value, tuple) and all(accepts(item, v) for v in value)
    if origin is type:
        return isinstance(value, type) and issubclass(value, get_args(kind)[0])
    if kind is type(None):
        return value is None
    if kind is float:
        return _is_finite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (str, bool):
        return isinstance(value, kind)
    plain = origin or kind
    return not isinstance(plain, type) or isinstance(value, plain)


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond the floats
        return False


def describe(kind: Any) -> str:
    """An annotated kind in words."""
    origin = get_origin(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if origin in (Union, types.UnionType):
        return " or ".join(describe(part) for part in get_args(kind))
    if origin is tuple:
        return f"a list of {describe(get_args(kind)[0])}"
    if kind is type(None):
        return "None"
    if origin is type:
        return f"a kind of {get_args(kind)[0].__name__}"
    known = {str: "text", bool: "true or false", int: "a whole number", float: "a finite number"}
    return known.get(kind, f"a {getattr(origin or kind, '__name__', kind)}")
