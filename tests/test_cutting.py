"""The unit that does not fit any more is cut to what does, and only where that is worth more than what else fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxcomp import Budget, Passage, Request, Selector, load, resolve_counter
from ctxcomp.candidates import Candidates, candidates
from ctxcomp.cutting import Cut
from ctxcomp.render import render


def words(text: str) -> int:
    return len(text.split())


CUT: list[str] = []
"""The units that were looked at more closely."""


@dataclass(frozen=True, kw_only=True)
class Worth(Selector):
    """A sentence is worth its number of capitals; in a sentence that is cut, the letters of ``wanted`` count."""

    wanted: str = ""

    def score(self, batch: Sequence[Candidates]) -> list[np.ndarray]:
        return [np.array([sum(map(str.isupper, text)) for text in units.texts], float) for units in batch]

    def focus(self, units: Candidates, i: int) -> np.ndarray | None:
        CUT.append(units.texts[i])
        return np.array([float(c in self.wanted) for c in units.texts[i]]) if self.wanted else None


LONG = "AAAA one two three four five six seven eight nine ten eleven twelve."
TEXT = f"Rain fell. {LONG} It ended."


@pytest.mark.parametrize(
    ("wanted", "said"),
    [("", "AAAA one two three four five six"), ("lv", "six seven eight nine ten eleven twelve."), ("AAon", "AAAA one")],
)
def test_the_best_part_is_kept_or_else_the_head(wanted, said):
    result = Worth(counter=words, cut=True, wanted=wanted).compress("", [Passage(TEXT)], Budget(tokens=7))
    assert result.text.startswith(said)
    assert result.stats.tokens_out == 7
    (span,) = result.spans
    assert TEXT[span.start : span.end] == result.text
    assert span.score == 4.0


def test_without_it_later_units_fill():
    passages = [Passage(TEXT)]
    assert Worth(counter=words).compress("", passages, Budget(tokens=7)).text == "Rain fell. It ended."
    assert Worth(counter=words, cut=True).compress("", passages, Budget(tokens=99)).text == TEXT


def test_what_else_fills_may_be_worth_more():
    # Of a sentence of 13 words that is worth 4, six words are worth 1.8: less than two sentences that are worth 1 each.
    around = [Passage(f"Zed ran. {LONG} Zed sat.")]
    assert Worth(counter=words, cut=True).compress("", around, Budget(tokens=6)).text == "Zed ran. Zed sat."
    assert Worth(counter=words, cut=True).compress("", around, Budget(tokens=8)).text.startswith("AAAA one two")


def test_what_comes_before_stays_whole_and_marks_count():
    text = f"BBBBB zero. {LONG} Rain fell."
    method = Worth(counter=words, cut=True, elision="[{units} out]", wanted="lv")
    result = method.compress("", [Passage(text)], Budget(tokens=14))
    assert result.text.startswith("BBBBB zero.")
    assert "[1 out]" in result.text
    assert result.stats.tokens_out == words(result.text) <= 14


@pytest.mark.parametrize(
    "text", ["| AAAA | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |", "```\nAAAA = 1 + 2 + 3 + 4 + 5 + 6\n```"]
)
def test_tables_and_code_are_not_cut(text):
    CUT.clear()
    Worth(counter=words, cut=True).compress("", [Passage(f"It ended. {'so it was. ' * 5}\n\n{text}")], Budget(tokens=8))
    assert CUT == []
    Worth(counter=words, cut=True).compress("", [Passage(TEXT)], Budget(tokens=8))
    assert CUT == [LONG]


PIECES = st.lists(
    st.sampled_from(["Rain fell.", LONG, "雨が降った。", "A b-c d.", "\n\n", "- item ONE two"]), max_size=8
)


@given(st.lists(PIECES.map(" ".join), min_size=1, max_size=3), st.integers(1, 60), st.sampled_from(["", "lv", "e"]))
def test_budgets_hold_and_spans_are_slices(texts, tokens, wanted):
    passages = tuple(map(Passage, texts))
    result = Worth(cut=True, wanted=wanted, counter="minilm").compress("", passages, Budget(tokens=tokens))
    assert result.stats.tokens_out <= tokens
    assert all(passages[s.passage].text[s.start : s.end] in result.text for s in result.spans)


@given(PIECES.map(" ".join), st.data())
def test_split_parts_are_the_unit(text, data):
    units = candidates(Request("", (Passage("First."), Passage(text), Passage("Last.")), Budget(keep=1)), "sentence")
    i = data.draw(st.integers(0, len(units) - 1))
    one = Cut(units, i, resolve_counter(words), None)
    count = len(one.costs)
    a = data.draw(st.integers(0, count - 1))
    window = (a, data.draw(st.integers(a + 1, count)))
    parts, kept, origin = one.split(window, np.ones(len(units), bool))
    assert [t for t, o in zip(parts.texts, origin, strict=True) if o != i] == [
        t for n, t in enumerate(units.texts) if n != i
    ]
    assert kept.sum() == len(units)
    whole = render(parts, np.ones(len(parts), bool), load("bm25"))
    assert whole.text == render(units, np.ones(len(units), bool), load("bm25")).text
