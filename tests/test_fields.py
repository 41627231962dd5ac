from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxcomp import InputError
from ctxcomp.fields import check_fields, field_types, nearest, parse_value


@dataclass(frozen=True, kw_only=True)
class Options:
    whole: int = 1
    number: float = 1.0
    words: str = ""
    flag: bool = False
    choice: Literal["a", "b", 1] = "a"
    several: tuple[str, ...] = ()
    maybe: int | None = None
    place: str | Path | None = None
    kinds: tuple[type[OSError], ...] = ()
    table: Mapping[str, int] | None = None
    anything: Any = None

    def __post_init__(self) -> None:
        check_fields(self)


GOOD = [
    ("whole", 0), ("whole", -(10**30)), ("number", 3), ("number", -0.5), ("words", "\ud800"), ("flag", True),
    ("choice", "b"), ("choice", 1), ("several", ("a", "b")), ("maybe", None), ("maybe", 3), ("place", Path("x")),
    ("kinds", (OSError, FileNotFoundError)), ("table", {"a": 1}), ("anything", object()),
]  # fmt: skip

BAD = [
    ("whole", 1.0, "a whole number"), ("whole", True, "a whole number"), ("whole", "1", "a whole number"),
    ("whole", None, "a whole number"), ("number", math.nan, "a finite number"),
    ("number", -math.inf, "a finite number"),
    ("number", 10**400, "a finite number"), ("number", False, "a finite number"), ("number", "1", "a finite number"),
    ("words", b"x", "text"), ("words", 5, "text"), ("flag", 1, "true or false"), ("choice", "c", "one of 'a', 'b', 1"),
    ("choice", True, "one of"), ("choice", [], "one of"), ("several", "a", "a list of text"),
    ("several", ("a", 1), "a list of text"), ("several", [["a"]], "a list of text"), ("maybe", 1.5, "or None"),
    ("place", 5, "text or a Path or None"), ("kinds", (int,), "a kind of OSError"), ("kinds", OSError, "a list of"),
    ("kinds", ("x",), "a kind of OSError"), ("table", 5, "a Mapping or None"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_values_of_the_right_kind_pass_unchanged(name, value):
    assert getattr(Options(**{name: value}), name) is value


@pytest.mark.parametrize(("name", "value", "allowed"), BAD)
def test_values_of_the_wrong_kind_are_named_with_what_is_allowed(name, value, allowed):
    with pytest.raises(InputError, match=rf"^{name} must be .*{allowed}.*, got "):
        Options(**{name: value})


def test_lists_become_tuples_and_the_instance_stays_hashable():
    options = Options(several=["a", "b"])
    assert options.several == ("a", "b")
    assert hash(options) == hash(Options(several=("a", "b")))


def test_field_types_are_resolved():
    assert field_types(Options)["several"] == tuple[str, ...]


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.5", 0.5), ("true", True), ("null", None), ('["a"]', ["a"]), ("word", "word"), ("", ""),
     ('"3"', "3"), ("[", "["), ("True", "True"), ("1_000", "1_000"), (" 3 ", 3)],
)  # fmt: skip
def test_command_line_values_are_json_or_text(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@given(st.text())
def test_any_text_is_a_value(text):
    parse_value(text)


def test_deep_and_long_values_stay_text():
    assert parse_value("[" * 100_000) == "[" * 100_000
    assert parse_value("9" * 5000) == "9" * 5000


def test_nearest():
    assert nearest(" K1", ["b", "k1"]) == "did you mean 'k1'?"
    assert nearest("zz", ["b", "a"]) == "there are a, b"
