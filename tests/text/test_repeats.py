"""Repeats count less, and the same fact is not kept twice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxcomp import Budget, InputError, Passage, load
from ctxcomp.text.repeats import ALIKE, less_repeated


@given(st.integers(0, 40), st.integers(0, 10**6), st.floats(0, 8))
def test_only_repeats_lose_and_the_best_never(n, seed, redundancy):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = rng.choice([0.1, 0.2, 0.5, 0.9], n)
    less = less_repeated(scores, vectors, redundancy)
    alike = vectors @ vectors.T
    for i in range(n):
        ahead = [j for j in range(n) if (-scores[j], j) < (-scores[i], i)]
        nearest = max((float(alike[i, j]) for j in ahead), default=-1.0)
        expected = scores[i] * np.exp(-redundancy * max(nearest - ALIKE, 0) / (1 - ALIKE))
        assert less[i] == pytest.approx(expected, rel=1e-4)


def test_a_fact_that_two_chunks_share_is_kept_once():
    shared = "The stone bridge across the Arle was opened to traffic in 1874."
    passages = [
        Passage(f"Tarnbeck lies in the north. {shared}"),
        Passage(f"{shared} It replaced a ferry that two families had run from 1790 on."),
        Passage("Cheese is made from milk by many dairies in the county. It keeps well."),
    ]
    question = "when was the bridge opened and what did it replace"
    budget = Budget(tokens=40)
    once, twice = (
        load("sentence_pruner", redundancy=value, cut=False).compress(question, passages, budget).text
        for value in (4.0, 0.0)
    )
    assert once.count("1874") == 1
    assert "ferry" in once
    assert twice.count("1874") == 2
    with pytest.raises(InputError, match="redundancy must be 0"):
        load("sentence_pruner", redundancy=-1.0)
