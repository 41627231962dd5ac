"""Batching, windows, edge cases and errors of the Encoder."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxcomp.encode import Encoder, load_encoder
from ctxcomp.encode.batching import pad, plan
from ctxcomp.encode.windows import owners, windows
from ctxcomp.errors import InputError

WORDS = [f"word{i}" if i % 3 else f"Größe-{i}," for i in range(1200)]


@pytest.fixture(scope="module")
def tokens(bert: Path) -> Encoder:
    return load_encoder(bert, head="token")


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_batch_equals_singles(bert: Path, runtime: str) -> None:
    encoder = load_encoder(bert, head="token", runtime=runtime, batch_tokens=600)
    rng = np.random.default_rng(0)
    batch = [encoder.with_specials(rng.integers(1000, 20000, n)) for n in (0, 3, 500, 17, 17, 3, 64, 65, 200, 1)]
    for method in (encoder.hidden, encoder.token_logits):
        for ids, together in zip(batch, method(batch), strict=True):
            np.testing.assert_allclose(together, method([ids])[0], atol=1e-5)
    texts = [" ".join(WORDS[i : i + n]) for i, n in enumerate((0, 1, 400, 30, 30))]
    np.testing.assert_allclose(encoder.embed(texts), np.concatenate([encoder.embed([t]) for t in texts]), atol=1e-5)


def test_same_call_gives_the_same_bits(tokens: Encoder) -> None:
    texts = [" ".join(WORDS[:n]) for n in (1, 5, 300, 40)]
    assert np.array_equal(tokens.embed(texts), tokens.embed(texts))


def test_equal_sequences_run_once(tokens: Encoder) -> None:
    ids = tokens.with_specials(np.array([2000, 2001]))
    first, second = tokens.hidden([ids, ids.copy()])
    assert np.array_equal(first, second)


def test_nothing_in_nothing_out(tokens: Encoder) -> None:
    assert tokens.tokenize([]) == []
    assert tokens.hidden([]) == []
    assert tokens.token_logits([]) == []
    assert tokens.keep_probs([]) == []
    assert tokens.embed([]).shape == (0, 32)
    [(offsets, probabilities)] = tokens.keep_probs([""])
    assert offsets.shape == (0, 2)
    assert probabilities.shape == (0,)


def test_empty_text_is_its_specials(tokens: Encoder) -> None:
    states = tokens.hidden([np.array([tokens.cls_id, tokens.sep_id])])[0]
    np.testing.assert_allclose(tokens.embed([""], normalize=False)[0], states.mean(0), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_pooling(bert: Path, pooling: str, runtime: str) -> None:
    encoder = load_encoder(bert, pooling=pooling, runtime=runtime)
    texts = ["one two", "a much longer sentence than the other one"]
    states = encoder.hidden([encoder.with_specials(t.ids) for t in encoder.tokenize(texts)])
    expected = np.stack([s.mean(0) if pooling == "mean" else s[0] for s in states])
    np.testing.assert_allclose(encoder.embed(texts, normalize=False), expected, atol=1e-5)
    norms = np.linalg.norm(encoder.embed(texts), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-6)


def test_long_text_is_the_weighted_mean_of_its_windows(tokens: Encoder) -> None:
    text = " ".join(WORDS[:60])
    [t] = tokens.tokenize([text])
    cut = windows(len(t), 30, 8)
    assert len(cut) > 3
    pooled = [tokens.hidden([tokens.with_specials(t.ids[a:b])])[0].mean(0) for a, b in cut]
    expected = np.average(pooled, axis=0, weights=[b - a for a, b in cut])
    got = tokens.embed([text], normalize=False, max_tokens=32, overlap=8)[0]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_end_of_a_long_text_counts(tokens: Encoder) -> None:
    head = " ".join(WORDS)
    one, other = tokens.embed([head + " alpha", head + " omega"])
    assert not np.allclose(one, other, atol=1e-6)


def test_keep_probs_has_every_token_of_a_long_text(tokens: Encoder) -> None:
    text = " ".join(WORDS)
    [expected] = tokens.tokenize([text])
    [(offsets, probabilities)] = tokens.keep_probs([text])
    assert len(expected) > 3 * tokens.max_tokens
    assert np.array_equal(offsets, expected.offsets)
    assert offsets[0, 0] == 0
    assert offsets[-1, 1] == len(text)
    assert ((probabilities > 0) & (probabilities < 1)).all()
    # A token well inside one window has exactly that window's value.
    a, b = windows(len(expected), 510, 64)[1]
    logits = tokens.token_logits([tokens.with_specials(expected.ids[a:b])])[0][1:-1]
    middle = (b - a) // 2
    assert probabilities[a + middle] == pytest.approx(1 / (1 + np.exp(logits[middle, 0] - logits[middle, 1])), abs=1e-5)


def test_keep_probs_of_labels_sum_to_one(xlmr: Path) -> None:
    encoder = load_encoder(xlmr, head="token")
    total = sum(encoder.keep_probs(["Der Vertrag läuft aus."], label=i)[0][1] for i in range(3))
    np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize("model", ["bert", "xlmr"])
def test_surrogates_keep_offsets_right(request: pytest.FixtureRequest, model: str) -> None:
    encoder = load_encoder(request.getfixturevalue(model))
    text = "left \ud800 right \udfff\ud83d end"
    [tokens] = encoder.tokenize([text])
    clean = text.replace("\ud800", "?").replace("\udfff", "?").replace("\ud83d", "?")
    start, end = tokens.offsets[-1]
    assert clean.endswith("end")
    assert end == len(text)
    assert text[start:end] in "end"
    encoder.embed([text])


def test_errors_say_what_is_allowed(bert: Path, tokens: Encoder) -> None:
    with pytest.raises(InputError, match="1 to 512"):
        tokens.hidden([np.zeros(513, dtype=np.int64)])
    with pytest.raises(InputError, match="1 to 512"):
        tokens.hidden([np.zeros(0, dtype=np.int64)])
    with pytest.raises(InputError, match=r"\[0, 30522\)"):
        tokens.hidden([np.array([30522])])
    with pytest.raises(InputError, match=r"label must be in \[0, 2\)"):
        tokens.keep_probs(["a"], label=2)
    with pytest.raises(InputError, match=r"max_tokens must be in \[3, 512\]"):
        tokens.embed(["a"], max_tokens=2)
    with pytest.raises(InputError, match="without a head"):
        load_encoder(bert).token_logits([])
    with pytest.raises(InputError, match="threads must be >= 0"):
        load_encoder(bert, threads=-1)
    with pytest.raises(InputError, match="dtype='int8' needs runtime='onnx'"):
        load_encoder(bert, dtype="int8", runtime="torch")


def test_loading_is_memoised(bert: Path) -> None:
    assert load_encoder(bert, head="token") is load_encoder(str(bert), head="token")
    assert load_encoder(bert, head="token") is not load_encoder(bert)


def test_cpu_path_imports_neither_torch_nor_transformers(bert: Path) -> None:
    code = (
        "import sys\nfrom ctxcomp.encode import load_encoder\n"
        f"load_encoder({str(bert)!r}, head='token').keep_probs(['a b'])\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@given(lengths=st.lists(st.integers(1, 60), max_size=40), limit=st.integers(1, 300))
@settings(max_examples=200, deadline=None)
def test_plan_holds_every_sequence_once_within_the_limit(lengths: list[int], limit: int) -> None:
    batches = plan(lengths, limit)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= limit


def test_plan_groups_equal_lengths_and_parts_unequal_ones() -> None:
    batches = plan([200] * 5 + [10] * 50, 10**6)
    assert [len(batch) for batch in batches] == [5, 50]
    assert len(plan([10, 11, 12], 10**6)) == 1


@given(n=st.integers(0, 400), size=st.integers(1, 60), data=st.data())
@settings(max_examples=200, deadline=None)
def test_windows_cover_every_token_and_overlap(n: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    spans = windows(n, size, overlap)
    assert spans[0][0] == 0
    assert spans[-1][1] == n
    assert all(b - a <= size for a, b in spans)
    assert all(left[1] - right[0] >= overlap for left, right in itertools.pairwise(spans))
    owner = owners(n, spans)
    assert all(spans[i][0] <= token < spans[i][1] for token, i in enumerate(owner))


def test_windows_refuse_an_overlap_of_the_whole_window() -> None:
    with pytest.raises(InputError, match=r"overlap must be in \[0, 10\)"):
        windows(100, 10, 10)


def test_pad_is_on_the_right() -> None:
    ids, lengths = pad([np.array([5]), np.array([6, 7, 8])], 1)
    assert ids.tolist() == [[5, 1, 1], [6, 7, 8]]
    assert lengths.tolist() == [1, 3]


def test_parts_are_the_means_of_their_tokens_states_in_the_text_around_them():
    encoder = load_encoder("minilm")
    texts = ["Bees make honey. Wax too.", "", "One part only"]
    parts = [np.array([[0, 16], [17, 25]]), np.empty((0, 2), np.int64), np.array([[0, 13], [13, 13]])]
    whole, vectors = encoder.embed_parts(texts, parts)
    tokens = encoder.tokenize(texts)
    (states,) = encoder.hidden([encoder.with_specials(tokens[0].ids)])
    inner = states[1:-1]
    split = int((tokens[0].offsets[:, 1] <= 16).sum())
    for got, expected in ((whole[0], inner), (vectors[0][0], inner[:split]), (vectors[0][1], inner[split:])):
        mean = expected.mean(axis=0)
        assert got == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)
    assert [v.shape for v in vectors] == [(2, 384), (0, 384), (2, 384)]
    assert not whole[1].any()
    assert vectors[2][1] == pytest.approx(whole[2])  # a part without tokens stands for its text


def test_parts_of_a_long_text_come_from_overlapping_windows():
    encoder = load_encoder("minilm")
    text = "The committee met again and talked at length about other things. " * 60
    starts = np.arange(0, len(text) - 10, 66)
    parts = np.stack([starts, starts + 65], axis=1)
    whole, (vectors,) = encoder.embed_parts([text], [parts])
    assert vectors.shape == (len(parts), 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert (vectors @ vectors[len(parts) // 2] > 0.8).all()
    assert np.linalg.norm(whole[0]) == pytest.approx(1, abs=1e-5)
