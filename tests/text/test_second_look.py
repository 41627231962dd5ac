"""The second look: a passage is needed for what the best evidence names, though the question does not."""

from dataclasses import replace

import numpy as np
import pytest

from ctxcomp import Budget, InputError, Passage, Request, load
from ctxcomp.candidates import candidates
from ctxcomp.text.fusion import several_share
from ctxcomp.text.second_look import (
    SECOND,
    SEVERAL,
    Seen,
    Vocabulary,
    second_signals,
    several_signals,
    subject,
)

QUERY = "In which county is the village where Mara Ellwood, the author of The Silent Weir, was born?"
PASSAGES = tuple(
    Passage(text)
    for text in (
        "Aldershire County is known for its cheese. Many villages in the county hold a fair.",
        "The Silent Weir is a novel of 1931. Its author Mara Ellwood was born in Tarnbeck.",
        "A weir is a low dam across a river. Authors of the silent era wrote for film.",
        "Tarnbeck is a small settlement in Northmoor. It has a mill and two inns.",
    )
)


def seen_of(query, passages):
    """The request as the first look left it, with the second passage's last unit ahead."""
    units = candidates(Request(query, passages, Budget(keep=1)), "sentence")
    logits = -np.arange(len(units), dtype=float)
    logits[3] = 2.0
    return Seen(units, logits)


def test_what_the_evidence_names_comes_up():
    units = candidates(Request(QUERY, PASSAGES, Budget(keep=1)), "sentence")
    first, both = (load("sentence_pruner", second_look=use).score([units])[0] for use in ("never", "always"))
    home = units.texts.index("Tarnbeck is a small settlement in Northmoor.")
    order = [np.argsort(-scores).tolist().index(home) for scores in (first, both)]
    assert order[1] < order[0]
    assert order[1] <= 2
    assert ((both > 0) & (both < 1)).all()


def test_auto_lies_between_and_leaves_simple_questions_alone():
    units = candidates(Request(QUERY, PASSAGES, Budget(keep=1)), "sentence")
    never, auto, always = (
        load("sentence_pruner", second_look=use).score([units])[0] for use in ("never", "auto", "always")
    )
    assert ((auto - never) * (always - auto) >= -1e-12).all()
    assert not np.allclose(auto, never)
    simple = candidates(Request("who wrote the silent weir", PASSAGES, Budget(keep=1)), "sentence")
    never, auto = (load("sentence_pruner", second_look=use).score([simple])[0] for use in ("never", "auto"))
    assert np.abs(auto - never).max() < 0.1


def test_a_batch_is_as_its_requests():
    method = load("sentence_pruner")
    requests = [Request(q, PASSAGES[:n], Budget(tokens=30)) for q in (QUERY, "", "weir") for n in (1, 4)]
    assert [r.text for r in method.compress_batch(requests)] == [
        method.compress(r.query, r.passages, r.budget).text for r in requests
    ]


@pytest.mark.parametrize(
    ("passage", "words"),
    [
        (Passage("The Silent Weir is a novel."), {"silent", "weir"}),
        (Passage("It is a novel.", title="The Weir (novel)"), {"weir", "novel"}),
        (Passage("Arthur of the North was a king."), {"arthur", "north"}),
        (Passage("in the beginning there was"), {"beginning"}),
        (Passage(""), set()),
    ],
)
def test_subjects(passage, words):
    assert subject(passage) == words


def test_signals_are_what_the_docstring_says():
    seen = seen_of(QUERY, PASSAGES)
    words = Vocabulary(seen.units)
    evidence = seen.evidence()
    assert evidence[0] == 3
    assert sorted(int(seen.units.passage[i]) for i in evidence) == [0, 1, 2, 3]
    hops = np.eye(8, dtype=np.float32)[: len(evidence)]
    parts = np.random.default_rng(0).normal(size=(len(seen.units), 8)).astype(np.float32)
    parts /= np.linalg.norm(parts, axis=1, keepdims=True)
    signals = second_signals(seen, words, parts, hops)
    assert signals.shape == (len(seen.units), len(SECOND))
    column = {name: signals[:, k] for k, name in enumerate(SECOND)}
    assert column["place"].tolist() == [0, 1] * 4
    assert column["passage_margin"].max() == 0
    assert column["same_passage"].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    assert column["subject_mentioned"][6] == pytest.approx(1.0)  # "Tarnbeck" is in the best evidence
    assert column["subject_mentioned"][2] < 1.0  # evidence does not count in its own passage
    assert (signals[:, SECOND.index("mentions") :] >= 0).all()


def test_there_is_a_second_look_at_what_was_read_alone():
    method = load("sentence_pruner")
    stored = tuple(
        replace(passage, embedding=vector)
        for passage, vector in zip(PASSAGES, method.load_encoder("none").embed([p.text for p in PASSAGES]), strict=True)
    )
    units = candidates(Request(QUERY, stored, Budget(keep=1)), "sentence")

    def scores(use, **options):
        return load("sentence_pruner", second_look=use, **options).score([units])[0]

    some = {"cross_passages": 3}
    for options in (some, {"reuse_embeddings": True}, {"reuse_embeddings": True, **some}):
        changed = units.passage[scores("never", **options) != scores("always", **options)]
        assert np.unique(changed).size == options.get("cross_passages", 4), options
    one = (scores(use, cross_passages=1) for use in ("never", "always"))
    assert np.array_equal(*one), "a passage alone has no evidence elsewhere"


def test_questions_of_several_passages_are_told_apart():
    seen = seen_of(QUERY, PASSAGES)
    assert several_signals(seen, Vocabulary(seen.units)).shape == (len(SEVERAL),)
    simple = seen_of("who wrote the silent weir", PASSAGES)
    assert several_share(seen, Vocabulary(seen.units)) > several_share(simple, Vocabulary(simple.units)) + 0.2


def test_only_known_ways():
    with pytest.raises(InputError, match="second_look"):
        load("sentence_pruner", second_look="sometimes")
