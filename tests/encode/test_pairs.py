"""Pair scorers: the sequences they build, and our own head on an encoder."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from ctxcomp.encode import load_encoder
from ctxcomp.encode.pair_sequences import PairForm, Specials, cut_pair, read_pair_form
from ctxcomp.encode.pairs import MAX_QUERY_TOKENS, WINDOW_TOKENS, PairScores, WindowedScorer, load_pair_scorer
from ctxcomp.encode.tokens import Tokens
from ctxcomp.errors import InputError, ModelError
from ctxcomp.progress import listen

QUERY = "When does the contract end?"
PASSAGES = [
    "The contract ends in March, and a notice period of six weeks applies afterwards.",
    "Größe matters: 40 % of naïve tokenizers fail on 東京 — and on “quotes”.",
    "a",
    "word " * 40,
]
LONG = " ".join(f"word{i}" if i % 3 else f"Größe-{i}," for i in range(500))


def head_file(path: Path, labels: int = 2, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    tensors = {"classifier.weight": rng.standard_normal((labels, 32)), "classifier.bias": rng.standard_normal(labels)}
    save_file({name: value.astype(np.float32) for name, value in tensors.items()}, path)
    return path


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return head_file(tmp_path_factory.mktemp("head") / "head.safetensors")


@pytest.fixture(scope="module")
def scorer(bert: Path, head: Path) -> WindowedScorer:
    found = load_pair_scorer(bert, head=head)
    assert isinstance(found, WindowedScorer)
    return found


def equal(a: PairScores, b: PairScores) -> None:
    assert a.rank == pytest.approx(b.rank, abs=1e-4)
    assert np.array_equal(a.offsets, b.offsets)
    assert a.keep is not None
    assert b.keep is not None
    np.testing.assert_allclose(a.keep, b.keep, atol=1e-4)


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
@pytest.mark.parametrize("family", ["bert", "xlmr"])
def test_scores_equal_a_forward_pass_of_transformers(
    request: pytest.FixtureRequest, head: Path, family: str, runtime: str
) -> None:
    path: Path = request.getfixturevalue(family)
    scorer = load_pair_scorer(path, head=head, runtime=runtime)
    model, tokenizer, tensors = (
        AutoModel.from_pretrained(path).eval(),
        AutoTokenizer.from_pretrained(path),
        load_file(head),
    )
    for passage, got in zip(PASSAGES, scorer.score([(QUERY, p) for p in PASSAGES]), strict=True):
        encoded = tokenizer(QUERY, passage, return_offsets_mapping=True)
        owner = np.array([-1 if i is None else i for i in encoded.sequence_ids(0)])
        ids = torch.tensor(encoded["input_ids"])[None]
        with torch.inference_mode():
            states = model(input_ids=ids, token_type_ids=torch.zeros_like(ids)).last_hidden_state[0].numpy()
        logits = states @ tensors["classifier.weight"].T + tensors["classifier.bias"]
        assert got.rank == pytest.approx(logits[0, 0], abs=1e-4)
        assert np.array_equal(got.offsets, np.array(encoded["offset_mapping"])[owner == 1])
        assert got.keep is not None
        assert got.keep.dtype == np.float32
        np.testing.assert_allclose(got.keep, logits[owner == 1, 1], atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "xlmr"])
def test_sequences_equal_the_transformers_tokenizer(request: pytest.FixtureRequest, family: str) -> None:
    path: Path = request.getfixturevalue(family)
    encoder, theirs = load_encoder(path), AutoTokenizer.from_pretrained(path)
    form = read_pair_form(encoder.tokenizer, "test")
    for query, passage in itertools.product([QUERY, ""], ["The end.", ""]):
        ours = form.join(*(t.ids for t in encoder.tokenize([query, passage])))
        expected = theirs([(query, passage)], return_token_type_ids=True)
        assert ours.ids.tolist() == expected["input_ids"][0]
        if family == "bert":
            assert ours.types.tolist() == expected["token_type_ids"][0]


def test_batch_equals_singles_and_equal_pairs_run_once(scorer: WindowedScorer) -> None:
    pairs = [(QUERY, p) for p in [*PASSAGES, LONG]] + [
        ("other", PASSAGES[0]),
        (QUERY, PASSAGES[1]),
        ("", "a"),
        ("a", ""),
    ]
    together = scorer.score(pairs)
    for pair, scores in zip(pairs, together, strict=True):
        equal(scores, scorer.score([pair])[0])
    assert together[6] is together[1]
    assert scorer.score([]) == []


def test_long_passage_is_scored_in_windows(bert: Path, head: Path, scorer: WindowedScorer) -> None:
    encoder = load_encoder(bert, head=head)
    query, passage = encoder.tokenize([QUERY, LONG])
    small = replace(scorer, window=100)
    [got] = small.score([(QUERY, LONG)])
    assert np.array_equal(got.offsets, passage.offsets)
    assert got.offsets[-1, 1] == len(LONG)
    sequences, spans = cut_pair(scorer.form, query, passage, window=100, max_query=64, overlap=64)
    assert len(spans) > 10
    assert all(len(s.ids) <= 100 for s in sequences)
    logits = encoder.token_logits([s.ids for s in sequences])
    assert got.rank == pytest.approx(max(values[0, 0] for values in logits), abs=1e-4)
    assert got.keep is not None
    for sequence, values, (a, b) in zip(sequences, logits, spans, strict=True):
        middle = (a + b) // 2
        assert got.keep[middle] == pytest.approx(values[sequence.start + middle - a, 1], abs=1e-4)


def test_passage_that_just_fits_is_one_window(bert: Path, head: Path, scorer: WindowedScorer) -> None:
    encoder = load_encoder(bert, head=head)
    [query] = encoder.tokenize([QUERY])
    room = WINDOW_TOKENS - 3 - len(query)
    [got] = scorer.score([(QUERY, "word " * room)])
    ids = scorer.form.join(query.ids, np.full(room, encoder.tokenize(["word"])[0].ids[0])).ids
    assert len(ids) == WINDOW_TOKENS
    logits = encoder.token_logits([ids])[0]
    assert got.rank == pytest.approx(logits[0, 0], abs=1e-4)
    assert got.keep is not None
    np.testing.assert_allclose(got.keep, logits[len(query) + 2 : -1, 1], atol=1e-4)


def test_long_query_keeps_its_start(scorer: WindowedScorer) -> None:
    start = "why " * MAX_QUERY_TOKENS
    cut, same, other = scorer.score([(start + "not", PASSAGES[0]), (start, PASSAGES[0]), ("how " + start, PASSAGES[0])])
    equal(cut, same)
    assert abs(cut.rank - other.rank) > 1e-3


def test_empty_query_and_passage_are_defined(bert: Path, head: Path, scorer: WindowedScorer) -> None:
    encoder = load_encoder(bert, head=head)
    [words] = encoder.tokenize(["some words"])
    no_query, no_passage, nothing = scorer.score([("", "some words"), ("some words", ""), ("", "")])
    cls, sep = [encoder.cls_id], [encoder.sep_id]
    sequences = [
        np.concatenate(parts) for parts in ((cls, sep, words.ids, sep), (cls, words.ids, sep, sep), (cls, sep, sep))
    ]
    logits = encoder.token_logits(sequences)
    for got, values in zip((no_query, no_passage, nothing), logits, strict=True):
        assert got.rank == pytest.approx(values[0, 0], abs=1e-4)
    assert no_query.keep is not None
    np.testing.assert_allclose(no_query.keep, logits[0][2:-1, 1], atol=1e-4)
    for got in (no_passage, nothing):
        assert got.keep is not None
        assert (got.offsets.shape, got.keep.shape) == ((0, 2), (0,))


def test_surrogates_keep_offsets_right(scorer: WindowedScorer) -> None:
    text = "left \ud800 right \udfff\ud83d end"
    [got] = scorer.score([("que\ud800ry", text)])
    assert text[slice(*got.offsets[-1])] == "end"


def test_progress_is_told(scorer: WindowedScorer) -> None:
    seen: list[tuple[int, int]] = []
    with listen(lambda done, total: seen.append((done, total))):
        scorer.score([(QUERY, LONG), (QUERY, "short")])
    assert seen
    assert seen[-1][0] == seen[-1][1] >= 2


def test_int8_is_close(bert: Path, head: Path, scorer: WindowedScorer) -> None:
    pairs = [(QUERY, passage) for passage in PASSAGES[:2]]
    for exact, fast in zip(
        scorer.score(pairs), load_pair_scorer(bert, head=head, dtype="int8").score(pairs), strict=True
    ):
        assert exact.keep is not None
        assert fast.keep is not None
        assert np.corrcoef(exact.keep, fast.keep)[0, 1] > 0.98
        assert not np.array_equal(exact.keep, fast.keep), "int8 did not run"


def test_loading_is_memoised_and_hashed(bert: Path, head: Path, tmp_path: Path) -> None:
    scorer = load_pair_scorer(bert, head=head)
    assert load_pair_scorer(str(bert), head=str(head)) is scorer
    path = head_file(tmp_path / "head.safetensors", seed=1)
    other = load_pair_scorer(bert, head=path)
    before = other.score([(QUERY, "a")])[0].rank
    assert other.weights_hash != scorer.weights_hash
    head_file(path, seed=2)
    again = load_pair_scorer(bert, head=path)
    assert again.weights_hash != other.weights_hash
    assert again.score([(QUERY, "a")])[0].rank != before


def test_errors_say_what_is_allowed(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has 1 output: a pair scorer needs 2"):
        load_pair_scorer(bert, head=head_file(tmp_path / "one.safetensors", labels=1))
    with pytest.raises(ModelError, match="no head file"):
        load_pair_scorer(bert, head=tmp_path / "absent.safetensors")
    with pytest.raises(ModelError, match=r"BertModel, which scores no pairs: use .* head=FILE"):
        load_pair_scorer("minilm")
    for wrong in ({"runtime": "onnx"}, {"dtype": "int8"}):
        with pytest.raises(InputError, match="runs on torch in a float format"):
            load_pair_scorer(bert, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch_tokens must be >= 1"):
        load_pair_scorer(bert, batch_tokens=0)


def test_cpu_path_imports_neither_torch_nor_transformers(bert: Path, head: Path) -> None:
    code = (
        "import sys\nfrom ctxcomp.encode.pairs import load_pair_scorer\n"
        "assert 'onnxruntime' not in sys.modules\n"
        f"load_pair_scorer({str(bert)!r}, head={str(head)!r}).score([('a', 'b')])\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def ints(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.int64) + 1000


@given(
    specials=st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(0, 2)), query=st.integers(0, 90),
    passage=st.integers(0, 300), window=st.integers(16, 120), max_query=st.integers(1, 64), overlap=st.integers(0, 64),
)  # fmt: skip
@settings(max_examples=200)
def test_windows_of_a_pair_hold_every_passage_token(
    specials: tuple[int, int, int], query: int, passage: int, window: int, max_query: int, overlap: int
) -> None:
    form = PairForm(*(Specials(ints(n), np.zeros(n, np.int64)) for n in specials), query_type=0, passage_type=1)
    texts = [Tokens(ints(n), np.zeros((n, 2), np.int64)) for n in (query, passage)]
    sequences, spans = cut_pair(form, *texts, window=window, max_query=max_query, overlap=overlap)
    assert len(sequences) == len(spans)
    assert {t for a, b in spans for t in range(a, b)} == set(range(passage))
    for sequence, (a, b) in zip(sequences, spans, strict=True):
        assert len(sequence.ids) == len(sequence.types) <= window
        assert np.array_equal(sequence.ids[sequence.start : sequence.start + b - a], texts[1].ids[a:b])
        assert sequence.types.sum() == b - a
        assert sequence.start == specials[0] + specials[1] + min(query, max_query, window // 4)
