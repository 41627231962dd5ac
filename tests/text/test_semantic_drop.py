import itertools

import numpy as np
import pytest

from ctxcomp import Budget, InputError, Passage, Request, load
from ctxcomp.candidates import candidates

TEXT = "George Eliot did not write the very long novel Emma. It rained a lot in London on that cold day in 1871."
PLAIN = {"guard": (), "phrases": False}


def units(query, *texts):
    return candidates(Request(query, tuple(map(Passage, texts)), Budget(tokens=5)), "word")


def brute_force(encoder, words, size):
    """The distances as the definition says, window by window, one text at a time."""
    distances = []
    parts = -(-len(words) // size)
    cuts = [len(words) * i // parts for i in range(parts + 1)]
    for a, b in itertools.pairwise(cuts):
        window = words[a:b]
        whole = encoder.embed([" ".join(window)])[0]
        for i in range(len(window)):
            without = encoder.embed([" ".join(window[:i] + window[i + 1 :])])[0]
            distances.append((1 - float(whole @ without)) * len(window) ** 0.5)
    return distances


@pytest.mark.parametrize("size", [2, 5, 50])
def test_scores_rank_as_leaving_each_word_out_by_hand(size):
    drop = load("semantic_drop", window=size, **PLAIN)
    first, second = TEXT[:52], TEXT[53:]
    expected = [d for s in (first, second) for d in brute_force(drop.load_encoder(), s.split(), size)]
    (scores,) = drop.score([units("", TEXT)])
    apart = np.abs(np.subtract.outer(expected, expected)) > 1e-4
    assert ((np.subtract.outer(scores, scores) > 0) == (np.subtract.outer(expected, expected) > 0))[apart].all()


def test_cost_is_bounded_by_the_window(monkeypatch):
    drop = load("semantic_drop", window=10, **PLAIN)
    encoder = drop.load_encoder()
    seen = []
    monkeypatch.setattr(type(encoder), "embed", lambda self, texts, **_: seen.extend(texts) or np.ones((len(texts), 3)))
    drop.score([units("", "word " * 1000)])
    assert len(seen) <= 1000 + 1000 // 10
    assert max(len(text.split()) for text in seen) <= 10


def test_names_numbers_and_negations_go_last():
    drop = load("semantic_drop")
    result = drop.compress("", [Passage(TEXT)], Budget(tokens=12))
    assert {"Eliot", "not", "1871."} <= set(result.text.split())
    assert not {"the", "very", "a", "lot"} & set(result.text.split())


def test_a_guard_gives_way_and_protection_does_not():
    small = load("semantic_drop").compress("", [Passage(TEXT)], Budget(tokens=3))
    assert 0 < small.stats.tokens_out <= 3
    with pytest.raises(InputError, match="protected text alone"):
        load("semantic_drop", protect=("digits", "names")).compress("", [Passage(TEXT)], Budget(tokens=3))


def test_the_query_pulls_its_words():
    plain, pulled = load("semantic_drop", **PLAIN), load("semantic_drop", query_weight=50.0, **PLAIN)
    found = units("How was the weather? rain", TEXT)
    at = found.texts.index("rained")

    def rank(scores):
        return int((scores > scores[at]).sum())

    assert rank(pulled.score([found])[0]) < rank(plain.score([found])[0])


@pytest.mark.parametrize(
    "text", ["", " \n", "一二三。北京是中国的首都。", "```py\nx = 1\n```\n\nand prose", "\ud800 x", "a" * 4000]
)
def test_any_text(text):
    for tokens in (0, 3, 50):
        result = load("semantic_drop").compress("x", [Passage(text)], Budget(tokens=tokens))
        assert result.stats.tokens_out <= tokens


@pytest.mark.parametrize("fields", [{"window": 1}, {"query_weight": -1.0}, {"guard": ("(",)}, {"window": "12"}])
def test_wrong_fields_are_refused(fields):
    with pytest.raises(InputError):
        load("semantic_drop", **fields)
