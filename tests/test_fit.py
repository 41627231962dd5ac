"""The packer on scores that are given: what is kept, and that the budget holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from ctxcomp import Budget, BudgetError, InputError, Passage, Request, Selector, load, resolve_counter
from ctxcomp.candidates import Candidates, candidates
from ctxcomp.fit import FitOptions
from ctxcomp.render import render


@dataclass(frozen=True, kw_only=True)
class Given(Selector):
    """Scores units by the number in brackets after each, "One [3]." being worth 3."""

    def score(self, batch: Sequence[Candidates]) -> list[np.ndarray]:
        return [np.array([float(text.split("[")[1].split("]")[0]) for text in units.texts]) for units in batch]


def words(text: str) -> int:
    return len(text.split())


def given(**options: object) -> Given:
    return Given(counter=words, **options)


ONE = Passage("Alpha is here [3]. Beta is there [1]. Gamma is gone [2].", id="one", title="First")
TWO = Passage("Delta [9].\n\nEpsilon is a long one here [8].", id="two")


def kept(result: object) -> list[str]:
    return [result.passages[s.passage].text[s.start : s.end] for s in result.spans]


def test_the_best_units_of_all_passages_in_source_order():
    result = given().compress("", [ONE, TWO], Budget(tokens=10))
    assert kept(result) == ["Delta [9].", "Epsilon is a long one here [8]."]
    assert result.text == "Delta [9].\n\nEpsilon is a long one here [8]."
    assert result.passage_texts == ("", result.text)


def test_dropping_in_the_middle_keeps_the_gap_of_the_source():
    result = given().compress("", [ONE], Budget(tokens=8))
    assert result.text == "Alpha is here [3]. Gamma is gone [2]."
    assert [s.score for s in result.spans] == [3.0, 2.0]


def test_smaller_units_fill_what_the_next_best_leaves():
    assert kept(given().compress("", [ONE, TWO], Budget(tokens=6))) == ["Alpha is here [3].", "Delta [9]."]
    assert kept(given(fill=False).compress("", [ONE, TWO], Budget(tokens=6))) == ["Delta [9]."]


def test_per_token_prefers_short_units():
    long, short = Passage("Much longer than the other one [5]."), Passage("Short [4].")
    assert kept(given().compress("", [long, short], Budget(tokens=7))) == ["Much longer than the other one [5]."]
    assert kept(given(per_token=True).compress("", [long, short], Budget(tokens=7))) == ["Short [4]."]


def test_allocate_passage_gives_each_the_same_share():
    poor = Passage("Low a [1]. Low b [1.5]. Low c [1.2]. Low d [1.1].")
    rich = Passage("Top a [9]. Top b [9.5]. Top c [9.2]. Top d [9.1].")
    result = given(allocate="passage").compress("", [poor, rich], Budget(keep=0.5))
    assert kept(result) == ["Low b [1.5].", "Low c [1.2].", "Top b [9.5].", "Top c [9.2]."]
    assert all(s.passage == 1 for s in given().compress("", [poor, rich], Budget(keep=0.5)).spans)


def test_floor_and_cap_are_tokens_of_each_passage():
    assert {s.passage for s in given(floor_tokens=1).compress("", [ONE, TWO], Budget(tokens=6)).spans} == {0, 1}
    capped = given(cap_tokens=2).compress("", [ONE, TWO], Budget(tokens=20))
    assert kept(capped) == ["Delta [9]."]


def test_min_score_leaves_room_unused():
    assert kept(given(min_score=2.5).compress("", [ONE], Budget(keep=1.0))) == ["Alpha is here [3]."]
    nothing = given(min_score=99.0).compress("", [ONE], Budget(keep=1.0))
    assert (nothing.text, nothing.spans, nothing.stats.tokens_out) == ("", (), 0)
    free = Passage("\x00 \x01")  # WordPiece has no tokens for control characters
    strict = load("random", min_score=2.0, counter="minilm", unit="word")
    assert strict.compress("", [free], Budget(tokens=0)).text == ""


def test_headers_and_marks_count_and_say_what_was_left_out():
    result = given(header="<{number}|{id}|{title}> ", elision="[{units}:{id}:{start}-{end}]").compress(
        "", [ONE], Budget(tokens=11)
    )
    assert result.text == "<1|one|First> Alpha is here [3]. [1:one:19-37] Gamma is gone [2]."
    assert ONE.text[19:37] == "Beta is there [1]."
    assert result.stats.tokens_out == words(result.text) <= 11
    assert result.passage_texts[0] == result.text.removeprefix("<1|one|First> ")


def test_protected_text_is_kept_whatever_its_score():
    assert "Beta is there [1]." in kept(given(protect=("Beta",)).compress("", [ONE, TWO], Budget(tokens=6)))
    marked = Passage(ONE.text, metadata={"protect": [[20, 21]]})
    assert "Beta is there [1]." in kept(given().compress("", [marked, TWO], Budget(tokens=4)))


def test_protected_text_over_the_budget_names_both_numbers():
    with pytest.raises(BudgetError, match="needs 12 tokens and the budget is 5"):
        given(protect=("digits",)).compress("", [ONE], Budget(tokens=5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protect": ("(",)}, "regular expression"),
        ({"protect": ("x*",)}, "matches the empty text"),
        ({"protect": "digits"}, "a list of text"),
        ({"header": "{nope}"}, "may use"),
        ({"elision": "{id.__class__}"}, "may use"),
        ({"elision": "{"}, "not a template"),
        ({"header": "{id!r}"}, "may use"),
        ({"floor_tokens": -1}, "0 or more"),
        ({"allocate": "all"}, "one of 'global', 'passage'"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(InputError, match=message):
        given(**options)


def test_wrong_protect_metadata_is_named():
    with pytest.raises(InputError, match=r"passages\[0\].metadata\['protect'\]"):
        given().compress("", [Passage(ONE.text, metadata={"protect": ["x"]})], Budget(tokens=3))


@pytest.mark.parametrize("tokens", range(1, 12))
def test_a_unit_that_is_too_long_is_cut_after_a_word(tokens):
    text = "One sentence of exactly twelve words cannot fit here without a cut [1]."
    result = given().compress("", [Passage(text)], Budget(tokens=tokens))
    assert result.stats.tokens_out == tokens
    assert text.startswith(result.text + " ")


@pytest.mark.parametrize("counter", ["o200k_base", "cl100k_base", "minilm"])
@pytest.mark.parametrize("elision", [None, " […{units}…] "])
def test_ends_within_one_unit_of_the_budget(counter, elision):
    rng = np.random.default_rng(0)
    vocabulary = ["alpha", "bétà", "gamma's", "北京", "x1.5", "(delta)", "antidisestablishment", "\u0915\u093f"]

    def sentence() -> str:
        return " ".join(rng.choice(vocabulary, rng.integers(2, 9))) + f" [{rng.integers(100)}]."

    passages = [Passage(" ".join(sentence() for _ in range(12))) for _ in range(6)]
    cheapest = min(resolve_counter(counter).count(" " + s) for p in passages for s in p.text.split("].") if s)
    for tokens in range(1, 700, 29):
        result = Given(counter=counter, elision=elision).compress("", passages, Budget(tokens=tokens))
        assert result.stats.tokens_out <= tokens
        if result.stats.tokens_out < result.stats.tokens_in and elision is None:
            assert tokens - result.stats.tokens_out <= cheapest + 40


def test_units_are_not_scored_when_all_of_them_fit():
    class Failing(Given):
        def score(self, batch):
            raise AssertionError("scored")

    assert Failing(counter=words).compress("", [ONE], Budget(keep=1.0)).text == ONE.text


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_name_the_method(bad):
    from ctxcomp import ModelError

    class Broken(Given):
        def score(self, batch):
            return [np.full(len(units), bad) for units in batch]

    with pytest.raises(ModelError, match="broken"):
        Broken(counter=words).compress("", [ONE], Budget(tokens=4))


@pytest.mark.parametrize(("text", "dropped", "said"), [("20年5月", "年月", "20 5"), ("語と文", "と", "語文")])
def test_what_was_apart_does_not_become_one_number(text, dropped, said):
    units = candidates(Request("", (Passage(text),), Budget(keep=1)), "word")
    kept = np.array([unit not in dropped for unit in units.texts])
    assert render(units, kept, FitOptions()).text == said
