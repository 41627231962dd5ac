"""Repeats count less, and the same fact is not kept twice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxcomp import Budget, InputError, Passage, Request, load
from ctxcomp.candidates import candidates
from ctxcomp.text.repeats import ALIKE, less_repeated


@given(st.integers(0, 40), st.integers(0, 10**6), st.floats(0, 8))
def test_only_repeats_lose_and_the_best_never(n, seed, redundancy):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = rng.choice([0.1, 0.2, 0.5, 0.9], n)
    texts = [f"{i % 7} of seven" if i % 3 == 0 else "" for i in range(n)]
    less = less_repeated(scores, texts, vectors, redundancy)
    alike = vectors @ vectors.T
    for i in range(n):
        ahead = [j for j in range(n) if (-scores[j], j) < (-scores[i], i)]
        nearest = max((1.0 if texts[i] and texts[i] == texts[j] else float(alike[i, j]) for j in ahead), default=-1.0)
        expected = scores[i] * np.exp(-redundancy * max(nearest - ALIKE, 0) / (1 - ALIKE))
        assert less[i] == pytest.approx(expected, rel=1e-4)
    told = [text for text in texts if text]
    assert sum(less_repeated(scores, texts, None, 1.0) < scores) == len(told) - len(set(told))


def test_a_fact_that_two_chunks_share_counts_once():
    shared = "The stone bridge across the Arle was opened to traffic in 1874."
    passages = (
        Passage(f"Tarnbeck lies in the north. {shared}"),
        Passage(f"{shared} It replaced a ferry that two families had run from 1790 on."),
        Passage("Cheese is made from milk by many dairies in the county. It keeps well."),
    )
    units = candidates(Request("when was the bridge opened", passages, Budget(keep=1)), "sentence")
    whole, less = (load("sentence_pruner", redundancy=value).score([units])[0] for value in (0.0, 3.0))
    better, worse = sorted((1, 2), key=lambda i: -whole[i])
    assert less[worse] == pytest.approx(whole[worse] * np.exp(-3))
    others = np.arange(len(units)) != worse
    assert less[others] == pytest.approx(whole[others])
    assert less.argmax() == better
    with pytest.raises(InputError, match="redundancy must be 0"):
        load("sentence_pruner", redundancy=-1.0)
