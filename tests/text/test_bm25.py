import pytest

from ctxcomp import Budget, InputError, Passage, load
from ctxcomp.text.bm25 import words

PASSAGES = [
    Passage("The Danube flows to the Black Sea. It is long. Many towns lie on it."),
    Passage("The Rhine flows to the North Sea. Castles stand above it."),
    Passage("Bread is made of flour and water."),
]


def first(query: str, **settings: object) -> str:
    return load("bm25", **settings).compress(query, PASSAGES, Budget(tokens=12)).text


def test_rare_words_of_the_query_decide():
    assert "The Rhine flows to the North Sea." in first("Where does the Rhine flow?")
    assert "Bread is made of flour and water." in first("bread flour")


def test_stop_words_do_not_win_against_a_rare_word():
    assert "Danube" in first("Is it the case that it is the Danube that it is?")


def test_the_passage_lifts_its_other_sentences():
    assert "Castles stand above it." in load("bm25").compress("Rhine", PASSAGES, Budget(tokens=16)).text
    alone = load("bm25", passage_weight=0.0).compress("Rhine", PASSAGES, Budget(tokens=16)).text
    assert "Castles" not in alone


@pytest.mark.parametrize("query", ["", "???", "zebra"])
def test_without_a_match_earlier_units_win(query):
    assert first(query, passage_weight=0.0).startswith("The Danube flows to the Black Sea.")


def test_scripts_without_spaces_match_by_character():
    passages = [Passage("今天天气很好。"), Passage("北京是中国的首都。")]
    assert load("bm25").compress("中国首都在哪里", passages, Budget(tokens=9)).text == "北京是中国的首都。"


def test_plurals_and_possessives_meet():
    assert words("The dog's bones, glass classes") == ["the", "dog", "s", "bone", "glass", "classe"]


def test_settings_are_checked():
    with pytest.raises(InputError, match="k1 must be a finite number"):
        load("bm25", k1="high")
