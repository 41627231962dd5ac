import numpy as np
import pytest

from ctxcomp import Budget, Passage, Request, load
from ctxcomp.candidates import candidates
from ctxcomp.text.phrases import whole_phrases

TEXT = "She did not meet Agnes, the Duchess of York, in 1874. Red brick walls stand there."


def ranked(text, scores):
    units = candidates(Request("", (Passage(text),), Budget(keep=0.5)), "word")
    words = units.texts
    base = np.array([scores.get(word.strip(".,"), 0.5) for word in words])
    return dict(zip(words, whole_phrases(units, base), strict=True))


def test_a_name_ranks_as_its_best_word_and_its_links_with_it():
    found = ranked(TEXT, {"Duchess": 0.2, "of": 0.1, "York": 0.9})
    assert found["Duchess"] == found["of"] == found["York,"] == pytest.approx(0.9)
    assert found["Agnes,"] == pytest.approx(0.5)  # a comma ends the name


def test_a_negation_is_worth_what_it_negates_and_articles_come_last():
    found = ranked(TEXT, {"not": 0.01, "meet": 0.8, "the": 0.99, "Agnes": 0.3})
    assert found["not"] >= found["meet"] == pytest.approx(0.8)
    assert min(found, key=found.get) == "the"


def test_runs_of_content_words_move_towards_their_best_and_do_not_cross_sentences():
    found = ranked(TEXT, {"Red": 0.2, "brick": 0.9, "walls": 0.2, "1874": 0.1})
    assert 0.2 < found["walls"] < 0.9
    assert found["1874."] == pytest.approx(0.1)


def test_scores_stay_probabilities_whatever_the_text():
    for text in ("", "a", "the the the", "не был в Москве", "東京は首都です。", "A B C D E", "!!! ??? ..."):
        units = candidates(Request("", (Passage(text), Passage("")), Budget(keep=0.5)), "word")
        for value in (0.0, 0.3, 1.0):
            scores = whole_phrases(units, np.full(len(units), value))
            assert scores.shape == (len(units),)
            assert np.isfinite(scores).all()
            assert ((scores >= 0) & (scores <= 1)).all()


def test_token_pruner_keeps_the_negation_with_the_verb():
    text = "The committee did not approve the plan. " * 3
    for keep in (0.2, 0.4, 0.6, 0.8):
        result = load("token_pruner").compress("", [Passage(text)], Budget(keep=keep))
        assert result.text.count("approve") <= result.text.count("not"), result.text
    loose = load("token_pruner", phrases=False).compress("", [Passage(text)], Budget(keep=0.4))
    assert loose.text.count("not") < loose.text.count("approve")


def test_protected_names_and_negations_are_kept():
    text = "We walked on and met Émile Zola (Old Bridge Road) but he was not open to it. Then it rained at NASA."
    kept = load("random", unit="word", protect=("names", "negations")).compress("", [Passage(text)], Budget(tokens=14))
    assert {"Émile", "Zola", "(Old", "Bridge", "Road)", "not", "NASA."} <= set(kept.text.split())
    assert "Then" not in kept.text
