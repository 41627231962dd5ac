"""Units of some passages are those of a request that has no others."""

from dataclasses import fields, replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ctxcomp import Budget, Passage, Request
from ctxcomp.candidates import candidates

TEXTS = st.lists(
    st.sampled_from(["", "One. Two.", "A list:\n- first\n- second", "Ende", " \n"]), min_size=1, max_size=6
)


@given(TEXTS, st.sets(st.integers(0, 5)))
def test_only(texts, chosen):
    request = Request("who", tuple(map(Passage, texts)), Budget(keep=1))
    wanted = sorted(p for p in chosen if p < len(texts))
    some = candidates(request, "sentence").only(wanted)
    alone = candidates(replace(request, passages=tuple(request.passages[p] for p in wanted)), "sentence")
    assert some.request == alone.request
    for field in fields(some)[1:]:
        own, expected = getattr(some, field.name), getattr(alone, field.name)
        assert np.array_equal(own, expected), field.name
        assert own.dtype == expected.dtype, field.name
