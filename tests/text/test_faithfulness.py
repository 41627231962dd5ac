import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxcomp import Budget, Passage, Request
from ctxcomp.candidates import candidates
from ctxcomp.text.faithfulness import repaired, unsupported

SOURCE = (
    "George Eliot wrote Middlemarch in 1871. President Barack Obama met John Brown and Mary Smith of Leeds. "
    "It cost $3 million, or 12% of all. The Duchess of York came by GPT-4 and l'Italie. J. S. Bach proposed it! "
    "Twelve people went to Zürich on May 5. Sie wohnt in der Friedrichstraße 17. 李明在2020年去了上海。"
    "محمد ذهب إلى القاهرة. Он живёт в Москве. El 7 de marzo de 1998."
)


def found(text, source=SOURCE):
    return [claim.text for claim in unsupported(text, [source])]


@pytest.mark.parametrize(
    "text",
    [
        "George Eliot wrote it.",
        "GEORGE ELIOT's Middlemarch",
        "12 people met President Obama.",
        "twelve percent; 3,000,000 dollars",
        "Zurich and the Duchess of York",
        "Bach, J. S. Bach",
        "People proposed it. Proposals were met.",
        "Italie, GPT4",
        "However, this was Middlemarch; I'm sure.",
        "李明去了上海。",
        "محمد ذهب",
        "el 7 de marzo",
        "",
        "...",
    ],
)
def test_what_the_source_has_is_not_reported(text):
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("In 1872 George Eliot wrote it.", ["1872"]),
        ("It cost 3 dollars.", ["3"]),
        ("It cost $4 million.", ["4 million"]),
        ("It cost 30,000,000.", ["30,000,000"]),
        ("Thirteen people", ["Thirteen"]),
        ("Jane Eliot wrote it.", ["Jane"]),
        ("Basel is far.", ["Basel"]),
        ("John Smith came.", ["John Smith"]),
        ("Mary Brown", ["Mary Brown"]),
        ("the Duchess of Leeds", ["Duchess of Leeds"]),
        ("iPhone and GPT-6", ["iPhone", "6"]),
        ("on June 5", ["June"]),
        ("el 7 de junio", ["junio"]),
        ("Johnston", ["Johnston"]),
        ("he met OBAMACARE", ["OBAMACARE"]),
        ("王芳在2020年去了上海。", ["王芳在"]),
        ("李明在2021年去了上海。", ["2021"]),
        ("カタカナ", ["カタカナ"]),
        ("علي ذهب", ["علي"]),
        ("Он живёт в Киеве.", ["Киеве"]),
    ],
)
def test_what_it_lacks_is(text, claims):
    assert found(text) == claims


def test_two_names_of_different_sentences_are_no_name():
    assert found("Brown met Eliot") == []
    assert found("Eliot Brown") == ["Eliot Brown"]


sentences = st.lists(
    st.sampled_from([unit for unit in candidates(Request("", (Passage(SOURCE),), Budget(keep=1.0)), "sentence").texts]),
    max_size=4,
)


@given(sentences)
def test_sentences_of_the_source_are_never_reported(chosen):
    assert found("\n".join(chosen)) == []


@given(sentences, st.integers(0, 10**9), st.integers(0, 4))
def test_a_planted_number_is_always_reported_and_repaired(chosen, number, place):
    text = "\n".join([*chosen[:place], f"There were {number:,} of them.", *chosen[place:]])
    claims = unsupported(text, [SOURCE])
    known = number in (5, 7, 12, 17, 4, 1871, 1998, 2020, 3_000_000)
    assert bool(claims) is not known
    left = repaired(text, claims)
    assert unsupported(left, [SOURCE]) == []
    assert all(sentence in left for sentence in chosen)


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_against_any_source(text, source):
    claims = unsupported(text, [source])
    assert all(text[claim.start : claim.end] == claim.text for claim in claims)
    assert len(repaired(text, claims)) <= len(text)
