"""The preset `tuned`: what is trained scores as FAISS does, and ranks better on pairs that it has not seen."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("faiss")
pytest.importorskip("torch")

import faiss

from ctxcomp import InputError, Passage
from ctxcomp.index import Index
from ctxcomp.index.codes import padded
from ctxcomp.index.tune import Tuning, tune

COUNT, DIMENSION, PAIRS = 800, 36, 500
FAST = Tuning(steps=150, adapter_rate=5e-3, centroid_rate=5e-4)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """Passages, and for each a query that mixes the numbers of its vector up: what tuning can find out."""
    generator = np.random.default_rng(0)
    vectors = unit(generator.normal(size=(COUNT, DIMENSION)))
    queries = unit(vectors + 1.2 * vectors[:, generator.permutation(DIMENSION)])
    return vectors, queries


def passages() -> list[Passage]:
    return [Passage(f"text {i}", id=f"p{i}") for i in range(COUNT)]


@pytest.fixture(scope="module")
def tuned(data) -> Index:
    _, queries = data
    pairs = [(queries[i], f"p{i}" if i % 2 else i) for i in range(PAIRS)]
    return tune(tuned_start(data), pairs, options=FAST).measured(queries[PAIRS:])


def reciprocal_ranks(index: Index, queries: np.ndarray) -> np.ndarray:
    _, rows = index.codes.best(index.tuned_queries(queries[PAIRS:]), 10, 50)
    places = rows == np.arange(PAIRS, COUNT)[:, None]
    return np.where(places.any(axis=1), 1 / (1 + places.argmax(axis=1)), 0.0)


def test_unseen_queries_find_their_passages_better_than_with_the_same_codes_untrained(tuned, data):
    _, queries = data
    untrained = tune(tuned_start(data), [(queries[i], i) for i in range(PAIRS)], options=Tuning(steps=0))
    before, after = reciprocal_ranks(untrained, queries), reciprocal_ranks(tuned, queries)
    assert after.mean() > before.mean() + 0.1
    assert "mean reciprocal rank" in tuned.note
    assert tuned.bytes_per_vector == untrained.bytes_per_vector == 5  # 40 numbers, half a byte for four


def tuned_start(data) -> Index:
    """The untrained index, with the codes that the fixture's began with."""
    from ctxcomp.index.codes import Codes
    from ctxcomp.index.presets import PRESETS
    from ctxcomp.index.source import Source

    vectors, _ = data
    return Index(PRESETS["tuned"], Source(None, ""), passages(), vectors, Codes.trained(PRESETS["tuned"], vectors))


def test_scores_are_those_of_faiss_with_the_tuned_centroids(tuned, data):
    _, queries = data
    asked = tuned.tuned_queries(queries[PAIRS : PAIRS + 50])
    quantizer = tuned.codes.index.pq
    plain = faiss.IndexPQ(quantizer.d, quantizer.M, 4, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(tuned.codes.centroids.ravel(), plain.pq.centroids)
    plain.is_trained = True
    packed = np.zeros((COUNT, quantizer.code_size), np.uint8)
    parts = assigned_parts(tuned)
    packed[:] = parts[:, ::2] | (parts[:, 1::2] << 4)
    faiss.copy_array_to_vector(packed.ravel(), plain.codes)
    plain.ntotal = COUNT
    expected, _ = plain.search(padded(asked), 10)
    scores, rows = tuned.codes.best(asked, 10, 200)
    decoded = tuned.codes.centroids[np.arange(parts.shape[1]), parts].reshape(COUNT, -1)
    formula = padded(asked) @ decoded.T
    np.testing.assert_allclose(np.take_along_axis(formula, rows, 1), scores, atol=1e-5)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def assigned_parts(index: Index) -> np.ndarray:
    """The codes as they were made: by the centroids before training."""
    assert index.codes.assigning is not None
    return index.codes.scored_by(index.codes.assigning).parts(index.vectors)


def test_codes_stay_as_they_were_and_centroids_do_not(tuned):
    assert not np.array_equal(tuned.codes.assigning, tuned.codes.centroids)
    rows = np.arange(COUNT)
    decoded = tuned.codes.index.reconstruct_batch(rows)
    parts = assigned_parts(tuned)
    expected = tuned.codes.centroids[np.arange(parts.shape[1]), parts].reshape(COUNT, -1)
    np.testing.assert_array_equal(decoded, expected)


def test_a_tuned_index_is_saved_extended_and_reduced(tuned, data, tmp_path):
    vectors, queries = data
    loaded = tuned.save(tmp_path)
    assert Index.load(tmp_path).note == tuned.note
    np.testing.assert_array_equal(loaded.nearest(queries, 5)[1], tuned.nearest(queries, 5)[1])
    more = loaded.add([Passage("more", id="more")], vectors=vectors[3:4])
    np.testing.assert_array_equal(
        more.codes.index.reconstruct_batch(np.array([COUNT])), tuned.codes.index.reconstruct_batch(np.array([3]))
    )
    assert more.codes.assigning is not None
    less = more.remove(["p0"])
    np.testing.assert_array_equal(
        less.codes.index.reconstruct_batch(np.array([2])), tuned.codes.index.reconstruct_batch(np.array([3]))
    )


def test_training_is_the_same_every_time(data):
    _, queries = data
    pairs = [(queries[i], i) for i in range(100)]
    one, two = (tune(tuned_start(data), pairs, options=Tuning(steps=20)) for _ in range(2))
    np.testing.assert_array_equal(one.adapter, two.adapter)
    np.testing.assert_array_equal(one.codes.centroids, two.codes.centroids)


def test_pairs_that_teach_nothing_leave_everything_as_it_was(data):
    vectors, _ = data
    shuffled = np.random.default_rng(1).permutation(PAIRS)
    pairs = [(vectors[i], int(i)) for i in shuffled]  # already perfect
    index = tune(tuned_start(data), pairs, options=Tuning(steps=10, adapter_rate=1.0, centroid_rate=1.0))
    np.testing.assert_array_equal(index.adapter, np.eye(40, dtype=np.float32))
    np.testing.assert_array_equal(index.codes.centroids, index.codes.assigning)
    assert padded(vectors).shape[1] == 40


@pytest.mark.parametrize(
    ("pairs", "message"),
    [([("q", "p0")] * 5, "32 pairs"), ([("q", "nobody")] * 40, "'nobody'"), ([("q", 99)] * 40, "99"), ([], "32 pairs")],
)
def test_pairs_that_cannot_be_used(pairs, message):
    with pytest.raises(InputError, match=message):
        Index.build(["a", "b"], preset="tuned", pairs=pairs)


def test_texts_as_pairs():
    texts = [f"The {animal} number {i} lives in room {i}." for i in range(20) for animal in ("cat", "dog")]
    pairs = [(f"Where does {text.split(' lives')[0].lower()} live?", i) for i, text in enumerate(texts)]
    index = Index.build(texts, preset="tuned", pairs=pairs)
    assert len(index.search("Where does the cat number 3 live?", 5)) == 5
    assert index.report.source == "sentences of the passages"
