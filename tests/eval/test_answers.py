import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxcomp_eval.answers import exact_match, f1

WORDS = st.lists(st.sampled_from("the a Paris paris, river 1969 of two-day !".split()), max_size=6).map(" ".join)


@pytest.mark.parametrize(
    ("prediction", "answers", "match", "share"),
    [
        ("The Eiffel Tower.", ["eiffel tower"], 1, 1),
        ("the tower", ["Eiffel Tower", "the Eiffel tower"], 0, 2 / 3),
        ("in 1969", ["1969", "July 1969"], 0, 2 / 3),
        ("two two one", ["two one one"], 0, 2 / 3),  # words count as often as they stand on both sides
        ("New York City", ["London"], 0, 0),
        ("", ["London"], 0, 0),
        ("the", ["London"], 0, 0),
        ("London", [], 0, 0),
        ("twenty-four", ["twenty four"], 0, 0),  # punctuation is deleted, not replaced
    ],
)
def test_known_values(prediction, answers, match, share):
    assert exact_match(prediction, answers) == match
    assert f1(prediction, answers) == pytest.approx(share)


def test_best_answer_counts_whatever_the_order():
    answers = ["July 20 1969", "1969", "the year of the Moon"]
    assert f1("1969", answers) == f1("1969", answers[::-1]) == 1
    assert f1("July 1969", answers) == pytest.approx(4 / 5)


@given(WORDS, WORDS)
def test_bounds_symmetry_and_agreement(prediction, answer):
    share = f1(prediction, [answer])
    assert 0 <= share <= 1
    assert share == f1(answer, [prediction])
    if exact_match(prediction, [answer]):
        assert share == 1
