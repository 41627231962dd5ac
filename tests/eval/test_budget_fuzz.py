"""A few hundred random fits, and proof that the fuzzer's checks can fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ctxcomp.types import Budget, CompressedText, Passage, Request, Span
from ctxcomp_eval.bench.budget_fuzz import CHECKS, Checker, fuzz
from ctxcomp_eval.bench.fuzz_cases import Case, GivenScores, make_case

TEXT = "One is here. Two was 12 there. Three went. Four stays on. Five ends it."
METHOD = GivenScores(seed=3, protect=("digits",), elision="[…]", header="[{id}]\n", counter="minilm")
REQUEST = Request("", (Passage(TEXT, id="a"), Passage("Other text. With more."), Passage("")), Budget(keep=0.6))


def test_random_fits_break_nothing(vocabularies) -> None:
    tally, failed = fuzz(300, seed=0, processes=1)
    assert failed == [], {name: tally[name] for name in CHECKS}
    assert tally["closeness_checked"] > 50
    assert tally["budget_errors"] > 10
    assert tally["closeness_missed_no_elision"] == 0


def test_a_case_is_the_same_each_time() -> None:
    assert [make_case(5, i) for i in range(20)] == [make_case(5, i) for i in range(20)]
    assert make_case(5, 1) != make_case(6, 1)


def failures(method: GivenScores, request: Request, change: Callable[[CompressedText], CompressedText]) -> set[str]:
    result = method.compress(request.query, request.passages, request.budget)
    return set(Checker(Case(method, request))._failures(change(result)))


def spans_changed(spans: Callable[[tuple[Span, ...]], tuple[Span, ...]]) -> Callable[[CompressedText], CompressedText]:
    return lambda result: replace(result, spans=spans(result.spans or ()))


def texts_changed(old: str, new: str) -> Callable[[CompressedText], CompressedText]:
    return lambda result: replace(
        result,
        text=result.text.replace(old, new),
        passage_texts=tuple(text.replace(old, new) for text in result.passage_texts),
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: r, set()),
        (lambda r: replace(r, text=r.text + " word"), {"tokens_out", "passage_texts"}),
        (lambda r: replace(r, text=r.text + " many words" * 40), {"budget", "tokens_out", "passage_texts"}),
        (lambda r: r.with_stats(tokens_in=r.stats.tokens_in + 1), {"tokens_in"}),
        (lambda r: r.with_stats(tokens_out=r.stats.tokens_out - 1), {"tokens_out"}),
        (lambda r: replace(r, passage_texts=r.passage_texts[:-1]), {"walk"}),
        (texts_changed("Two", "Too"), {"walk"}),
        (texts_changed("[…]", "[-]"), {"walk"}),
        (texts_changed(" ", "  "), {"walk"}),
        (spans_changed(lambda spans: spans[::-1]), {"span_order", "walk", "span_scores"}),
        (spans_changed(lambda spans: (*spans[:-1], replace(spans[-1], end=999))), {"span_order", "walk"}),
        (spans_changed(lambda spans: tuple(s for s in spans if "12" not in TEXT[s.start : s.end])),
         {"walk", "protected"}),
        (spans_changed(lambda spans: tuple(replace(s, score=9.0) for s in spans)), {"span_scores"}),
    ],
)  # fmt: skip
def test_every_lie_is_found(change: Callable[[CompressedText], CompressedText], expected: set[str]) -> None:
    found = failures(METHOD, REQUEST, change)
    assert found >= expected
    assert bool(found) == bool(expected)


def test_text_left_out_for_no_reason_is_found() -> None:
    request = replace(REQUEST, budget=Budget(tokens=500))
    less = METHOD.compress("", request.passages, Budget(keep=0.6))
    assert "whole_if_it_fits" in failures(METHOD, request, lambda _: less)


@pytest.mark.parametrize(("fields", "check"), [({"cap_tokens": 5}, "cap_tokens"), ({"min_score": 0.0}, "min_score")])
def test_units_that_the_settings_forbid_are_found(fields: dict[str, float], check: str) -> None:
    everything = METHOD.compress("", REQUEST.passages, Budget(tokens=500))
    method = replace(METHOD, **fields)
    assert check in failures(method, REQUEST, lambda _: everything)
    assert check not in failures(method, REQUEST, lambda result: result)


def test_an_unjustified_budget_error_is_found() -> None:
    checker = Checker(Case(METHOD, replace(REQUEST, budget=Budget(tokens=4))))
    assert checker.run()["budget_errors"] == 1
    assert checker.run()["budget_error"] == 0
    assert not checker._justified("the protected text alone needs 3 tokens and the budget is 4")
    generous = Checker(Case(METHOD, REQUEST))
    assert not generous._justified(f"the protected text alone needs 99 tokens and the budget is {generous.budget}")
