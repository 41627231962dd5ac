"""Building, searching, extending: against brute force, at the edges, and with the methods that reuse the vectors."""

from __future__ import annotations

import threading

import numpy as np
import pytest

pytest.importorskip("faiss")

from hypothesis import given
from hypothesis import strategies as st

from ctxcomp import Budget, InputError, Passage, UnknownMethodError, load
from ctxcomp.encode.options import EncoderOptions
from ctxcomp.index import PRESETS, Index
from ctxcomp.index.codes import check_device

UNTUNED = [name for name in PRESETS if name != "tuned"]
TEXTS = [
    "Middlemarch is a novel by George Eliot. It was published in eight parts.",
    "George Gissing wrote New Grub Street. It appeared in 1891.",
    "Bees make honey. A hive holds thousands of them.",
    "北京是中国的首都。它有很长的历史。",
    "The tram stops at the lake. Zürich has many of them.",
]


def clusters(n: int, d: int = 32, seed: int = 0) -> np.ndarray:
    """Vectors with structure, as those of texts have."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(20, d))
    return (centres[generator.integers(20, size=n)] + 0.6 * generator.normal(size=(n, d))).astype(np.float32)


def texts(n: int) -> list[Passage]:
    return [Passage(f"passage {i}", id=f"p{i}", metadata={"row": i}) for i in range(n)]


def brute_force(vectors: np.ndarray, query: np.ndarray, k: int) -> list[int]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.argsort(-(unit @ (query / np.linalg.norm(query))), kind="stable")[:k].tolist()


@pytest.fixture(scope="module")
def novels() -> Index:
    return Index.build([Passage(text, id=f"t{i}", title=f"Title {i}") for i, text in enumerate(TEXTS)])


@pytest.mark.parametrize("preset", UNTUNED)
def test_searches_find_what_brute_force_finds_and_the_report_says_how_much(preset):
    vectors, queries = clusters(3000), clusters(200, seed=1)
    index = Index.build(texts(3000), preset=preset, vectors=vectors, queries=queries)
    expected = [brute_force(vectors, query, 10) for query in clusters(60, seed=2)]
    found = index.search_batch(clusters(60, seed=2), k=10)
    shares = [len({p.metadata["row"] for p in own} & set(best)) / 10 for own, best in zip(found, expected, strict=True)]
    assert np.mean(shares) >= (1.0 if preset == "exact" else 0.95)
    assert index.report.low <= index.report.recall <= index.report.high
    assert index.report.recall >= 0.95
    if preset != "exact":
        assert index.report.queries == 100  # the other hundred chose the shortlist
        assert index.bytes_per_vector < index.report.float_bytes


@pytest.mark.parametrize("preset", UNTUNED)
def test_scores_are_cosines_best_first_and_vectors_come_back_as_stored(preset):
    vectors = clusters(300)
    index = Index.build(texts(300), preset=preset, vectors=vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    query = clusters(1, seed=3)[0]
    found = index.search(query, k=20)
    scores = [p.score for p in found]
    assert scores == sorted(scores, reverse=True)
    for passage in found:
        row = passage.metadata["row"]
        assert passage.score == pytest.approx(float(unit[row] @ query / np.linalg.norm(query)), abs=1e-5)
        assert passage.embedding == tuple(index.vectors[row].tolist())
        np.testing.assert_allclose(passage.embedding, unit[row], atol=1e-6)
    assert index.search(query, embeddings=False)[0].embedding is None


def test_codes_take_the_bytes_that_are_promised():
    vectors = clusters(700, d=384)
    sizes = {name: Index.build(texts(700), preset=name, vectors=vectors).bytes_per_vector for name in UNTUNED}
    assert sizes == {"exact": 1536, "small": 384, "tiny": 48, "streaming": 56}


@given(st.integers(1, 40), st.integers(1, 19), st.integers(1, 50), st.sampled_from(UNTUNED))
def test_any_size_dimension_and_k(count, dimension, k, preset):
    vectors = clusters(count, d=dimension)
    index = Index.build(texts(count), preset=preset, vectors=vectors)
    found = index.search(vectors[0], k)
    assert len(found) == min(k, count)
    assert len({p.id for p in found}) == len(found)
    best = max(float(index.vectors[row] @ index.vectors[0]) for row in range(count))
    assert found[0].score == pytest.approx(best, abs=1e-5)


def test_inner_products_where_lengths_matter():
    vectors = clusters(500) * np.linspace(0.1, 3, 500, dtype=np.float32)[:, None]
    index = Index.build(texts(500), preset="exact", vectors=vectors, metric="dot")
    query = clusters(1, seed=5)[0]
    assert [p.metadata["row"] for p in index.search(query, 5)] == np.argsort(-(vectors @ query))[:5].tolist()
    np.testing.assert_array_equal(index.vectors, vectors)


def test_texts_are_found_and_the_default_preset_is_tiny(novels):
    assert novels.preset.name == "tiny"
    best = novels.search("Who wrote Middlemarch?", k=2)
    assert best[0].id == "t0"
    assert best[0].title == "Title 0"
    assert novels.search("首都", k=1)[0].id == "t3"
    assert novels.report.source == "sentences of the passages"


@pytest.mark.parametrize("method", ["embedding_select", "sentence_pruner"])
def test_the_stored_vectors_are_those_that_methods_reuse(novels, method):
    query, budget = "Who wrote Middlemarch?", Budget(tokens=20)
    found = novels.search(query, k=5)
    reused = load(method, reuse_embeddings=True).compress(query, found, budget)
    assert "George Eliot" in reused.text
    fresh = [Passage(p.text, id=p.id, title=p.title, score=p.score) for p in found]
    if method == "embedding_select":
        assert reused.spans == load(method).compress(query, fresh, budget).spans
    with pytest.raises(InputError, match="embedding must be 384"):
        load(method, reuse_embeddings=True).compress(query, fresh, budget)


@pytest.mark.parametrize("preset", UNTUNED)
def test_adding_in_parts_finds_the_same_and_leaves_the_first_index_alone(preset):
    vectors = clusters(600)
    whole = texts(600)
    first = Index.build(whole[:50], preset=preset, vectors=vectors[:50])
    grown = first.add(whole[50:300], vectors=vectors[50:300]).add(whole[300:], vectors=vectors[300:]).measured()
    assert (len(first), len(grown)) == (50, 600)
    assert grown.report.recall > 0.95
    assert all(p.metadata["row"] < 50 for p in first.search(vectors[599], 50))
    for row in (0, 299, 599):
        assert grown.search(vectors[row], 1)[0].metadata["row"] == row
    if preset in ("tiny", "small"):
        assert grown.codes.trained_on == 300  # 50 were too few to stay with, 300 are not


def test_few_more_passages_do_not_train_anew():
    vectors = clusters(1000)
    grown = Index.build(texts(900), vectors=vectors[:900]).add(texts(100), vectors=vectors[900:])
    assert grown.codes.trained_on == 900
    assert len(grown.codes) == 1000


def test_removing_and_replacing():
    vectors = clusters(200)
    index = Index.build(texts(200), vectors=vectors)
    less = index.remove(["p7", "p8"])
    assert len(less) == 198
    assert len(less.codes) == 198
    assert "p7" not in {p.id for p in less.search(vectors[7], 198)}
    assert less.search(vectors[9], 1)[0].id == "p9"
    again = less.add([Passage("new", id="p7")], vectors=vectors[7:8])
    assert again.search(vectors[7], 1)[0].text == "new"
    with pytest.raises(InputError, match="no passage has the id 'nobody'"):
        index.remove(["nobody"])


@pytest.mark.parametrize("preset", UNTUNED)
def test_an_empty_index_finds_nothing_and_grows(preset):
    empty = Index.build([], preset=preset)
    assert (len(empty), empty.search("anything"), empty.search_batch(["a", "b"])) == (0, [], [[], []])
    assert empty.add([]).search("x") == []
    grown = empty.add(TEXTS)
    assert "Middlemarch" in grown.search("Who wrote Middlemarch?")[0].text


def test_duplicates_are_passages_of_their_own():
    index = Index.build([Passage("The same text.", id="same"), Passage("The same text.", id="same"), "Another."])
    found = index.search("The same text.", k=3)
    assert [p.id for p in found] == ["same", "same", ""]
    assert found[0].score == found[1].score


def test_searches_in_threads_while_the_index_grows():
    vectors = clusters(400)
    index = Index.build(texts(300), vectors=vectors[:300])
    expected = [p.id for p in index.search(vectors[5], 10)]
    seen: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: seen.append([p.id for p in index.search(vectors[5], 10)])) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    index.add(texts(100), vectors=vectors[300:])
    for thread in threads:
        thread.join()
    assert seen == [expected] * 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "tinny"}, "did you mean 'tiny'"),
        ({"preset": "tuned"}, "pairs="),
        ({"pairs": [("a", 0)]}, "no other one"),
        ({"metric": "l2"}, "'cosine' or 'dot'"),
        ({"recall": 0.0}, r"in \(0, 1\]"),
        ({"device": "tpu"}, "'cpu' or 'cuda'"),
        ({"device": "cuda"}, "on the CPU only"),
        ({"vectors": np.zeros((2, 4))}, r"shape \[3, d\], got \[2, 4\]"),
        ({"vectors": np.full((3, 4), np.nan)}, "row 0 is not"),
        ({"vectors": [["a"], ["b"], ["c"]]}, "must be numbers"),
    ],
)
def test_what_cannot_be_built_says_why(arguments, message):
    with pytest.raises((InputError, UnknownMethodError), match=message):
        Index.build(["a", "b", "c"], **arguments)


@pytest.mark.parametrize("passages", ["one text", [1], Passage("x"), 5, [Passage("x", metadata={"a": {1, 2}})]])
def test_what_is_no_passage_is_refused(passages):
    with pytest.raises(InputError, match="passages"):
        Index.build(passages)


def test_wrong_queries_say_what_is_needed(novels):
    with pytest.raises(InputError, match="k must be"):
        novels.search("x", k=0)
    with pytest.raises(InputError, match=r"shape \[1, 384\], got \[1, 3\]"):
        novels.search([1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="row 0 is not"):
        novels.search([float("inf")] * 384)
    with pytest.raises(InputError, match="list of texts"):
        novels.search_batch("one text")
    with pytest.raises(InputError, match="without vectors"):
        novels.add(["x"], vectors=np.ones((1, 384)))
    own = Index.build(["a"], vectors=np.ones((1, 4)), vectors_of="my model")
    with pytest.raises(InputError, match="of 'my model'"):
        own.search("a text")


def test_a_gpu_that_is_not_there_is_said_so():
    faiss = pytest.importorskip("faiss")
    if getattr(faiss, "get_num_gpus", int)():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="sees no GPU"):
        check_device("cuda", PRESETS["exact"])


def test_encoder_options_are_taken():
    index = Index.build(TEXTS[:2], preset="exact", model=EncoderOptions(threads=1))
    assert index.source.encoder.threads == 1
    assert index.search("honey", 1)[0].score is not None
