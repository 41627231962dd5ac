import numpy as np
import pytest
from checkpoints import tiny_contriever

from ctxcomp import Budget, InputError, ModelError, Passage, load
from ctxcomp.encode import load_encoder

PASSAGES = [
    Passage("The stadium was full. People ate sausages."),
    Passage("George Eliot wrote Middlemarch. Rain fell all week."),
    Passage("Bees make honey. Wax is a product of theirs too."),
]


def test_meaning_decides_without_a_shared_word():
    result = load("embedding_select").compress("Who is the author of that novel?", PASSAGES, Budget(tokens=9))
    assert result.text == "George Eliot wrote Middlemarch."


def test_scores_are_what_the_docstring_says():
    query = "Who makes honey?"
    result = load("embedding_select", passage_weight=0.5).compress(query, PASSAGES, Budget(tokens=25))
    encoder = load_encoder("minilm")
    assert len(result.spans) > 1
    for span in result.spans:
        passage = PASSAGES[span.passage]
        q, unit, whole = encoder.embed([query, passage.text[span.start : span.end], passage.text])
        assert span.score == pytest.approx(float(q @ unit + 0.5 * (q @ whole)), abs=1e-4)


def test_position_and_retriever_score_enter():
    passages = [Passage("Same words. Same words.", score=0.1), Passage("Same words. Same words.", score=0.9)]
    by_retriever = load("embedding_select", retriever_weight=1.0).compress("same", passages, Budget(tokens=7))
    assert {s.passage for s in by_retriever.spans} == {1}
    by_position = load("embedding_select", position_weight=1.0).compress("same", passages, Budget(tokens=7))
    assert [s.start for s in by_position.spans] == [0, 0]


def test_stored_embeddings_are_reused_and_checked():
    encoder = load_encoder("minilm")
    vectors = encoder.embed([p.text for p in PASSAGES])
    stored = [Passage(p.text, embedding=tuple(map(float, v))) for p, v in zip(PASSAGES, vectors, strict=True)]
    plain = load("embedding_select").compress("Who makes honey?", PASSAGES, Budget(tokens=12))
    reused = load("embedding_select", reuse_embeddings=True).compress("Who makes honey?", stored, Budget(tokens=12))
    assert reused.text == plain.text
    with pytest.raises(InputError, match=r"passages\[0\].embedding must be 384 finite numbers"):
        load("embedding_select", reuse_embeddings=True).compress("q", PASSAGES, Budget(tokens=3))


def test_without_a_query_the_typical_is_kept():
    passages = [Passage("Bees make honey. Bees collect pollen. Bees live in hives. The moon is far away.")]
    assert "moon" not in load("embedding_select").compress("", passages, Budget(keep=0.7)).text


def test_a_contriever_checkpoint_by_path(tmp_path):
    tiny_contriever(tmp_path / "contriever")
    method = load("embedding_select", model=str(tmp_path / "contriever"), similarity="dot")
    result = method.compress("q", PASSAGES, Budget(keep=0.5))
    assert 0 < result.stats.tokens_out <= result.stats.tokens_in // 2
    assert np.isfinite([s.score for s in result.spans]).all()


def test_a_missing_checkpoint_is_named():
    with pytest.raises(ModelError, match="no-such-model"):
        load("embedding_select", model="no-such-model").compress("q", PASSAGES, Budget(tokens=5))
