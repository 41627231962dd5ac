"""The check lets every honest result pass and catches what was put in, moved or altered."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxcomp import Budget, load
from ctxcomp.errors import BudgetError
from ctxcomp.render import Layout
from ctxcomp.segment import GAP
from ctxcomp.types import CompressedText, Passage, Span, Stats
from ctxcomp_eval.bench.fuzz_cases import make_case
from ctxcomp_eval.faithfulness import faithful

PASSAGES = (
    Passage("Ann sings. Bob\u200b cooks.  Cem runs.", id="a"),
    Passage("Dora reads. Eve sews.", id="b", title="T"),
)


def result(text, spans, passage_texts=None):
    spans = None if spans is None else tuple(Span(*span) for span in spans)
    if passage_texts is None:
        passage_texts = [
            " ".join(p.text[s.start : s.end] for s in spans or () if s.passage == i) for i, p in enumerate(PASSAGES)
        ]
    stats = Stats(20, 10, 0.0, "cl100k_base", "by_hand")
    return CompressedText(text=text, spans=spans, passages=PASSAGES, passage_texts=tuple(passage_texts), stats=stats)


ANN, CEM, EVE = (0, 0, 10), (0, 24, 33), (1, 12, 21)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("Ann sings. Cem runs.\n\nEve sews.", [ANN, CEM, EVE]),
        ("Ann sings.\n \u200bCem runs.", [ANN, CEM]),
        ("Ann sings.", [(0, 0, 11)]),
        ("Ann sings.", [ANN, (0, 10, 11)]),
        ("", []),
        (" \n", []),
    ],
)
def test_slices_and_white_space(text, spans):
    assert faithful(result(text, spans))


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("Ann sings. Cem ran.", [ANN, CEM]),
        ("Ann sings. and Cem runs.", [ANN, CEM]),
        ("So: Ann sings.", [ANN]),
        ("Ann sings. Etc.", [ANN]),
        ("Cem runs. Ann sings.", [ANN, CEM]),
        ("Cem runs. Ann sings.", [CEM, ANN]),
        ("Ann sings. Ann sings.", [ANN, ANN]),
        ("Ann sings.", [ANN, CEM]),
        ("ann sings.", [ANN]),
        ("Ann sings.", []),
        ("Ann sings. Cem runs.", [ANN, (0, 24, 99)]),
        ("Ann sings.", [(2, 0, 10)]),
        ("Ann sings.", None),
        ("[…] Eve sews.", [EVE]),
    ],
)
def test_what_is_not_in_the_source(text, spans):
    assert not faithful(result(text, spans))


def test_what_is_left_of_each_passage_is_checked_too():
    assert faithful(result("Ann sings.\n\nEve sews.", [ANN, EVE], ["Ann sings.", "Eve sews."]))
    assert not faithful(result("Ann sings.\n\nEve sews.", [ANN, EVE], ["Eve sews.", "Ann sings."]))
    assert not faithful(result("Ann sings.", [ANN], ["Ann sings.", "Eve sews."]))
    assert not faithful(result("Ann sings.", [ANN], ["Ann sings."]))


def test_declared_headers_marks_and_separators():
    layout = Layout(separator="\n---\n", header="[{id}] {title}\n", elision="<{units} of {title}: {start}-{end}>")
    text = "[a] \nAnn sings. <1 of : 11-22> Cem runs.\n---\n[b] T\n<1 of T: 0-11> Eve sews."
    bodies = ["Ann sings. <1 of : 11-22> Cem runs.", "<1 of T: 0-11> Eve sews."]
    made = result(text, [ANN, CEM, EVE], bodies)
    assert faithful(made, layout)
    assert not faithful(made)
    for old, new in [("1 of T", "one of T"), ("1 of T", "1 of V"), ("[b]", "[c]"), ("---", "==="), ("[a] \n", "")]:
        assert not faithful(replace(made, text=text.replace(old, new)), layout), new
    assert faithful(made, load("bm25", separator="\n---\n", header=layout.header, elision=layout.elision))


def test_a_mark_that_reads_like_the_text_after_it():
    passages = (Passage("One. Two. … Three."),)
    stats = Stats(20, 10, 0.0, "cl100k_base", "by_hand")
    for text in ("One. … Three.", "One. … … Three."):
        made = CompressedText(
            text=text, spans=(Span(0, 0, 4), Span(0, 10, 18)), passages=passages, passage_texts=(text,), stats=stats
        )
        assert faithful(made, Layout(elision="…"))
    assert not faithful(made)


@settings(max_examples=60)
@given(st.integers(0, 10**9), st.randoms(use_true_random=False))
def test_random_results_pass_and_tampered_ones_do_not(number, rng):
    case = make_case(7, number)
    try:
        made = case.method.compress(case.request.query, case.request.passages, case.request.budget)
    except BudgetError:
        return
    assert faithful(made, case.method)
    at = rng.randint(0, len(made.text))
    assert not faithful(replace(made, text=made.text[:at] + "\U0010fffd" + made.text[at:]), case.method)
    if visible := made.text.rstrip(GAP):
        assert not faithful(replace(made, text=visible[:-1]), case.method)


def test_chains_of_methods():
    chain = load("bm25+token_pruner")
    made = chain.compress("Who sews?", PASSAGES, Budget(keep=0.4))
    assert made.spans
    assert faithful(made, chain)
