"""Repeats count less, and the same fact is not kept twice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxcomp import Budget, InputError, Passage, Request, load
from ctxcomp.candidates import candidates
from ctxcomp.text.repeats import less_repeated


@given(st.lists(st.tuples(st.sampled_from(["Ab cd.", "ab, cd", "Ef", "", "?"]), st.sampled_from([0.1, 0.5, 0.9]))))
def test_each_wording_counts_once_and_where_it_is_best(rows):
    texts, scores = [text for text, _ in rows], np.array([score for _, score in rows])
    less = less_repeated(scores, texts, 2.0)
    for wording in (("Ab cd.", "ab, cd"), ("Ef",)):
        mine = [i for i, text in enumerate(texts) if text in wording]
        best = min(mine, key=lambda i: (-scores[i], i), default=None)
        for i in mine:
            assert less[i] == pytest.approx(scores[i] * (1 if i == best else np.exp(-2)))
    bare = [i for i, text in enumerate(texts) if text in ("", "?")]
    assert less[bare].tolist() == scores[bare].tolist()


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
