"""Documents to passages: slices of whole sentences, within the size, with nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ctxcomp import InputError, Passage, resolve_counter
from ctxcomp.index import split

TEXT = "One is here. Two is there. Three is nowhere at all. Four. Five is the last one of them."


def words(text: str) -> int:
    return len(text.split())


def test_sentences_are_packed_until_a_passage_is_full():
    found = list(split([Passage(TEXT, id="doc", title="T", metadata={"page": 2})], 9, words))
    assert [p.text for p in found] == [
        "One is here. Two is there.", "Three is nowhere at all. Four.", "Five is the last one of them.",
    ]  # fmt: skip
    assert [p.id for p in found] == ["doc#0", "doc#27", "doc#58"]
    assert all(p.title == "T" for p in found)
    assert found[1].metadata == {"page": 2, "source": "doc", "start": 27, "end": 57}


def test_what_is_short_stays_and_what_is_blank_goes():
    short = Passage("Short.", id="s", metadata={"a": 1})
    assert list(split([short, Passage(" \n "), Passage("")], 9, words)) == [short]


@example(["A b c d e f g h.", "\n\n", "\n\n", "\n\n", "北京。"])
@given(
    st.lists(
        st.sampled_from(["One two.", "A b c d e f g h.", "北京。", "x" * 30, "\n\n", "- item", "|a|b|\n"]), max_size=30
    )
)
def test_slices_within_the_size_that_lose_nothing(parts):
    text = " ".join(parts)
    counter = resolve_counter()
    found = list(split([Passage(text, id="d")], 12))
    assert "".join("".join(p.text for p in found).split()) == "".join(text.split())
    for passage in found:
        if passage.metadata:
            assert text[passage.metadata["start"] : passage.metadata["end"]] == passage.text
        assert counter.count(passage.text) <= 12 or len(passage.text.split()) == 1


def test_a_sentence_that_is_too_long_is_cut_at_words():
    found = list(split([Passage("word " * 100)], 10, words))
    assert {words(p.text) for p in found} <= set(range(1, 11))
    assert sum(words(p.text) for p in found) == 100


@pytest.mark.parametrize("tokens", [0, -1, True, 1.5])
def test_a_passage_has_tokens(tokens):
    with pytest.raises(InputError, match="1 token or more"):
        list(split([Passage("a")], tokens))
