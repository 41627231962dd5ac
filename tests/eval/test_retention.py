import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxcomp.errors import InputError
from ctxcomp_eval.retention import bootstrap, normalise, paired_difference, retained


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Battle of\nHastings!", "battle of hastings"),
        ("An apple a day", "apple day"),
        ("$1,000.50", "100050"),
        ("twenty-four", "twentyfour"),
        ("Theatre", "theatre"),
        ("the a an", ""),
        ("Röntgen", "röntgen"),
        ("A-team", "ateam"),
    ],
)
def test_normalisation_is_squads(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("answers", "text", "expected"),
    [
        (["Wilhelm Röntgen"], "won by wilhelm RÖNTGEN, in 1901", True),
        (["the Beatles"], "Beatles records", True),
        (["2"], "in 1923 and 12", False),
        (["cat"], "concatenate", False),
        (["cat", "dog"], "a dog", True),
        (["Battle of Hastings"], "Battle Hastings", False),
        (["Battle of Hastings"], "Battle ... of the Hastings", True),
        (["the", "?"], "the answer is the?", False),
        ([""], "anything", False),
        ([], "anything", False),
        (["x"], "", False),
    ],
)
def test_retained_on_word_boundaries(answers, text, expected):
    assert retained(answers, text) is expected


words = st.lists(st.text("abcXYZ09é", min_size=1, max_size=5), min_size=1, max_size=8)


@given(words, words, words)
def test_an_answer_is_found_wherever_it_stands(before, answer, after):
    text = " ".join([*before, *answer, *after])
    expected = bool(normalise(" ".join(answer)))
    assert retained([" ".join(answer)], text) is expected


@given(st.text(max_size=60))
def test_normalise_is_stable(text):
    once = normalise(text)
    assert "  " not in once
    assert once == once.strip()
    assert normalise(once) == once


def test_bootstrap_agrees_with_drawing_indices():
    values = (np.random.default_rng(1).random(400) < 0.3).astype(float)
    drawn = values[np.random.default_rng(2).integers(0, 400, (10_000, 400))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    found = bootstrap(values)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(low, abs=0.006)
    assert found.high == pytest.approx(high, abs=0.006)


def test_bootstrap_of_many_distinct_values():
    values = np.random.default_rng(3).normal(5, 2, 1000)
    found = bootstrap(values)
    half = 1.96 * values.std() / 1000**0.5
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)


def test_bootstrap_is_seeded():
    values = [0, 1, 1, 0, 1, 0, 0, 0, 1, 1]
    assert bootstrap(values, seed=4) == bootstrap(values, seed=4)
    assert bootstrap(values, seed=4, resamples=11) != bootstrap(values, seed=5, resamples=11)
    assert bootstrap([1, 1, 1]).low == 1.0


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_bootstrap_refuses_what_has_no_mean(values):
    with pytest.raises(InputError, match="at least one value"):
        bootstrap(values)


def test_pairing_sees_what_separate_intervals_do_not():
    hard = np.random.default_rng(6).random(500) < 0.5
    first, second = hard.astype(float), hard.astype(float)
    first[np.flatnonzero(~hard)[:25]] = 1.0  # better on 25 questions, the same on the others
    assert bootstrap(first).low < bootstrap(second).high
    assert paired_difference(first, second).low > 0
    assert paired_difference(second, first).mean == pytest.approx(-0.05)


def test_pairing_needs_the_same_questions():
    with pytest.raises(InputError, match="same questions"):
        paired_difference([1, 0], [1])
