"""What every method that writes promises: a hard budget, inventions that show, and results that other parts take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxcomp import Budget, Cached, FallbackToInput, InputError, ModelError, Passage, Request, load, resolve_counter
from ctxcomp.rewriter import PREPEND_NOTHING, capped, filled, invented

TEXT = (
    "Middlemarch is a novel by George Eliot. It was published in eight parts in 1871 and 1872. It is set in the "
    "Midlands. The weather in Peru was not good. Bees make honey in summer, and a hive holds 40,000 of them."
)
PASSAGES = [Passage("Rain fell on the hills."), Passage(TEXT, title="Notes by Ada Quill")]
LIE = "George Eliot wrote Middlemarch. It appeared in 1999 in Paris. Bees make honey."
ROOM = Budget(tokens=40)


def write(text, budget=ROOM, passages=PASSAGES, **fields):
    return load("summarize", chat=lambda _: text, **fields).compress("Who wrote Middlemarch?", passages, budget)


def test_a_lie_is_left_out_by_default_and_named():
    result = write(LIE)
    assert result.text == "George Eliot wrote Middlemarch. Bees make honey."
    assert result.spans is None
    assert result.stats.notes == ("left out, not in the source: '1999', 'Paris'",)
    assert result.stats.fallback is None
    assert result.passage_texts == ("", result.text)


def test_a_lie_can_be_reported_extracted_or_refused():
    assert write(LIE, inventions="report").text == LIE
    assert "not in the source: '1999', 'Paris'" in str(write(LIE, inventions="report").stats)
    extracted = write(LIE, inventions="extract")
    assert "'1999', 'Paris'" in extracted.stats.fallback
    assert extracted.spans
    assert all(TEXT[s.start : s.end] in extracted.text for s in extracted.spans)
    with pytest.raises(ModelError, match="'1999', 'Paris'"):
        write(LIE, inventions="refuse")


def test_nothing_but_lies_is_extracted():
    result = write("It appeared in 1999 in Paris.")
    assert result.spans
    assert result.stats.fallback.startswith("extracted, the text held what is not in the source: '1999'")
    assert result.stats.tokens_out <= 40


def test_a_title_is_a_source_and_a_question_is_none():
    assert write("Ada Quill noted it.").stats.notes == ()
    chat = load("summarize", chat=lambda _: "Jane Austen did. Bees make honey.")
    assert chat.compress("Did Jane Austen write it?", PASSAGES, ROOM).text == "Bees make honey."


@pytest.mark.parametrize("text", ["", " \n", ".", "NOTHING", "nothing.", "<think>hm</think> NOTHING"])
def test_an_empty_summary_prepends_nothing_and_says_so(text):
    result = write(text)
    if text == "nothing.":
        assert result.text == text
        return
    assert (result.text, result.spans, result.stats.tokens_out) == ("", None, 0)
    assert result.stats.notes == (PREPEND_NOTHING,)
    assert result.stats.fallback is None


def test_what_fits_is_not_written_unless_asked_for():
    assert write("Bees make honey.", Budget(keep=1.0)).spans
    assert write("Bees make honey.", Budget(keep=1.0), always=True).text == "Bees make honey."
    assert write("Bees make honey.", passages=[], always=True).text == ""


def test_cutting_is_at_sentence_ends_and_inside_only_when_the_first_is_too_long():
    counter = resolve_counter()
    text = "Bees make honey. They dance. A hive holds many of them."
    assert capped(text, 100, counter) == (text, False)
    assert capped(text, 8, counter) == ("Bees make honey. They dance.", False)
    assert capped(text, 2, counter) == ("Bees", True)
    assert "cut inside a sentence" in write(text, Budget(tokens=2)).stats.notes


@given(st.text(max_size=200), st.integers(1, 30), st.sampled_from(["repair", "extract", "report"]))
def test_the_budget_holds_whatever_is_written(text, tokens, inventions):
    method = load("summarize", chat=lambda _: text, inventions=inventions, extractor=load("bm25"))
    result = method.compress("", PASSAGES, Budget(tokens=tokens))
    assert result.stats.tokens_out == resolve_counter().count(result.text) <= tokens
    said = " ".join(result.stats.notes)
    if result.spans is None:
        assert all(repr(claim.text) in said for claim in invented(result.text, PASSAGES))


def test_templates_do_not_fill_what_was_filled_in():
    assert filled("{a} {b} {c}", {"a": "{b}", "b": "x"}) == "{b} x {c}"


def test_results_survive_a_cache_and_a_refusal_is_survived(tmp_path):
    cached = Cached(inner=load("summarize", model="draft", extractor=load("bm25")), path=tmp_path / "cache.sqlite")
    first, again = (cached.compress("honey", PASSAGES, Budget(tokens=30)) for _ in range(2))
    assert first == again
    with pytest.raises(InputError, match="cannot cache"):
        Cached(inner=load("summarize", chat=print)).compress("", PASSAGES, ROOM)
    safe = FallbackToInput(inner=load("summarize", chat=lambda _: LIE, inventions="refuse"))
    assert "ModelError: summarize wrote" in safe.compress("", PASSAGES, ROOM).stats.fallback


def test_notes_survive_a_cache(tmp_path):
    cached = Cached(inner=load("chunk_rewrite", reserve=0.3), path=tmp_path / "cache.sqlite")
    first = cached.compress("novel", PASSAGES, Budget(tokens=30))
    fresh = Cached(inner=load("chunk_rewrite", reserve=0.3), path=tmp_path / "cache.sqlite")
    assert first.stats.notes
    assert fresh.compress("novel", PASSAGES, Budget(tokens=30)) == first


def test_protected_text_stays_in_an_extraction():
    passage = Passage(TEXT, metadata={"protect": [(TEXT.index("Peru"), TEXT.index("Peru") + 4)]})
    result = load("summarize").compress("Who wrote Middlemarch?", [passage], Budget(tokens=24))
    assert "Peru" in result.text


def test_a_writer_of_many_requests_is_called_once_for_what_needs_it():
    asked = []
    method = load("summarize", chat=lambda prompt: asked.append(prompt) or "Bees make honey.")
    requests = [Request("", PASSAGES, budget) for budget in (Budget(tokens=0), Budget(keep=1.0), ROOM)]
    results = method.compress_batch(requests)
    assert len(asked) == 1
    assert [bool(r.spans) for r in results] == [False, True, False]
