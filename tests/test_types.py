import math

import pytest

from ctxcomp import Budget, BudgetError, InputError, Passage, Request, Stats


@pytest.mark.parametrize("kwargs", [{}, {"tokens": 3, "keep": 0.5}])
def test_a_budget_is_exactly_one_thing(kwargs):
    with pytest.raises(BudgetError, match="exactly one of tokens=N and keep=F"):
        Budget(**kwargs)


@pytest.mark.parametrize(
    "kwargs",
    [{"tokens": -1}, {"tokens": 1.5}, {"tokens": True}, {"tokens": "9"}, {"keep": 0}, {"keep": 1.01},
     {"keep": math.nan}, {"keep": math.inf}, {"keep": "0.5"}],
)  # fmt: skip
def test_budgets_that_mean_nothing_are_refused_with_what_was_given(kwargs):
    with pytest.raises(BudgetError) as caught:
        Budget(**kwargs)
    assert str(next(iter(kwargs.values()))) in str(caught.value)


@pytest.mark.parametrize(("keep", "tokens_in", "expected"), [(0.29, 100, 29), (0.5, 3, 1), (1.0, 7, 7), (0.01, 50, 0)])
def test_keep_rounds_down_and_only_real_fractions(keep, tokens_in, expected):
    assert Budget(keep=keep).resolve(tokens_in) == expected


def test_a_passage_is_text():
    with pytest.raises(InputError, match="must be a str, got bytes"):
        Passage(b"x")
    with pytest.raises(InputError, match="score must be a finite number"):
        Passage("x", score="high")


@pytest.mark.parametrize("passages", ["text", Passage("text"), ["text"], [None]])
def test_a_request_names_what_is_not_a_passage(passages):
    with pytest.raises(InputError, match="Passage"):
        Request("q", passages, Budget(tokens=1))


def test_a_request_wants_a_budget_and_a_query():
    with pytest.raises(InputError, match="got int"):
        Request("q", (), 100)
    with pytest.raises(InputError, match="query must be a str"):
        Request(None, (), Budget(tokens=1))


def test_stats_say_keep_and_fallback():
    stats = Stats(200, 50, 0.0123, "o200k_base", "bm25", fallback="OSError: x")
    assert stats.keep == 0.25
    assert str(stats) == "200 -> 50 tokens (keep 0.250), 12 ms, bm25, o200k_base [fallback: OSError: x]"
    assert Stats(0, 0, 0.0, "c", "m").keep == 1.0
