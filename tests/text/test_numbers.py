from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxcomp.text.numbers import numbers


def values(text):
    return {value for number in numbers(text) if not number.bare for value in number.values}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,234.5", {"1234.5"}),
        ("1.234,5", {"1234.5"}),
        ("1'234'567", {"1234567"}),
        ("3 million", {"3000000"}),
        ("3-million", {"3000000"}),
        ("1.5 Milliarden", {"1500000000"}),
        ("$3bn", {"3000000000"}),
        ("2 млн", {"2000000"}),
        ("12 %", {"12"}),
        ("05", {"5"}),
        ("5.0", {"5"}),
        ("1998-05-07", {"1998", "5", "7"}),
        ("the 1990s", {"1990"}),
        ("½", {"0.5"}),
        ("٣٤٥", {"345"}),
        ("१२", {"12"}),
        ("twelve", {"12"}),
        ("Twenty-five", {"25"}),
        ("two hundred and five", {"205"}),
        ("three million", {"3000000"}),
        ("one thousand nine hundred", {"1900"}),
        ("a dozen", {"12"}),
        ("fünfundzwanzig", {"25"}),
        ("treize", {"13"}),
        ("三百二十一人", {"321"}),
        ("二〇二四年", {"2024"}),
        ("3万", {"30000"}),
        ("五年", {"5"}),
        ("no number, one might say; 一个", set()),
    ],
)
def test_numbers_are_read(text, expected):
    assert values(text) == {Decimal(value) for value in expected}


def test_what_is_ambiguous_has_both_readings():
    assert values("1.234") == {Decimal("1.234"), Decimal(1234)}


def test_a_version_is_equal_to_no_number():
    assert not values("1.2.3") & values("1 2 3 123 1.2 2.3 12.3")
    assert values("1.2.3") == values("v 1.2.3")


def test_neighbouring_words_are_numbers_of_their_own():
    assert values("two three four") == {Decimal(2), Decimal(3), Decimal(4)}


@given(st.integers(0, 10**12))
def test_grouped_and_plain_digits_are_one_number(n):
    assert Decimal(n) in values(f"about {n:,} of them")
    assert values(f"{n}") == {Decimal(n)}


@given(st.text(max_size=80))
def test_any_text_is_read(text):
    assert all(0 <= number.start < number.end <= len(text) for number in numbers(text))
