import numpy as np
import pytest

from ctxcomp import Budget, Passage, Request, load

PASSAGES = (Passage("The bridge was opened in 1874. Rent is low."), Passage(""), Passage("Trout are common."))


@pytest.mark.parametrize("budget", [Budget(tokens=0), Budget(tokens=9), Budget(keep=1.0)])
def test_scores_of_all_units_come_with_the_same_result(budget):
    method = load("bm25")
    requests = [Request("When was the bridge opened?", PASSAGES, budget), Request("", (), budget)]
    plain = method.compress_batch(requests)
    (result, units, scores), (nothing, no_units, no_scores) = method.compress_scored(requests)
    assert result.text == plain[0].text
    assert units.texts == ["The bridge was opened in 1874.", "Rent is low.", "Trout are common."]
    assert scores.argmax() == 0
    assert np.ptp(scores) > 0  # scored, even where nothing fits or everything does
    assert (nothing.text, len(no_units), len(no_scores)) == ("", 0, 0)
