"""Published cross-encoders, as tiny models of the same layout, against plain forward passes of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import tiny_bert, tiny_xlmr
from safetensors.numpy import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ModernBertConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
)

from ctxcomp.encode.pair_sequences import cut_pair
from ctxcomp.encode.pairs import PairScores, WindowedScorer, load_pair_scorer
from ctxcomp.encode.tokens import tokenize
from ctxcomp.errors import ModelError

PAIRS = [
    ("When does the contract end?", "The contract ends in March, and six weeks of notice apply afterwards."),
    ("Größe?", "Größe matters: 40 % of naïve tokenizers fail on 東京 — and on “quotes”."),
    ("a", "b"),
    ("", "The contract ends in March."),
    ("word", "many words " * 40),
]
LONG = " ".join(f"word{i}" for i in range(200))
SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
WORDPIECE: dict[str, Any] = {"vocab_size": 30522, "max_position_embeddings": 512}
MODERN_IDS: dict[str, Any] = {"pad_token_id": 0, "cls_token_id": 101, "sep_token_id": 102}
MODERN_IDS |= {"bos_token_id": 101, "eos_token_id": 102}


def modern(**options: Any) -> ModernBertConfig:
    # The local window is shorter than the pairs, so that it counts.
    return ModernBertConfig(**SMALL | WORDPIECE | MODERN_IDS | {"local_attention": 16} | options)


def xlmr(vocab_size: int = 2000) -> XLMRobertaConfig:
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    return XLMRobertaConfig(vocab_size=vocab_size, max_position_embeddings=514, type_vocab_size=1, **SMALL, **ids)


FAMILIES: dict[str, Callable[[], PretrainedConfig]] = {
    "bert": lambda: BertConfig(**SMALL, **WORDPIECE),
    "xlmr": xlmr,
    "deberta": lambda: DebertaV2Config(
        **SMALL, **WORDPIECE, relative_attention=True, position_buckets=16, pos_att_type=["p2c", "c2p"],
        position_biased_input=False, type_vocab_size=0, pooler_hidden_size=32,
    ),
    "distilbert": lambda: DistilBertConfig(vocab_size=30522, dim=32, n_layers=2, n_heads=4, hidden_dim=64),
    "modernbert": modern,
}  # fmt: skip


def classifier(path: Path, family: str, labels: int = 1, auto: Any = AutoModelForSequenceClassification) -> Path:
    """A checkpoint as transformers saves it, with weights large enough that every part of a sequence counts."""
    tiny_xlmr(path) if family == "xlmr" else tiny_bert(path)
    config = FAMILIES[family]()
    config.num_labels = labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = auto.from_config(config).eval()
        for parameter in model.parameters():
            parameter.data = parameter.data * 5 if parameter.ndim > 1 else parameter.data + 0.2
    model.save_pretrained(path)
    return path


def open_provence(
    path: Path, family: str = "modernbert", *, version: str = "4.57.1", prefix: str = "ranking_model."
) -> Path:
    """The published layout around the classifier of the same family."""
    base = json.loads((classifier(path, family) / "config.json").read_text())
    if family == "modernbert":
        # As transformers 4 wrote it, with values that are not the defaults of today.
        del base["rope_parameters"], base["layer_types"]
        base |= {"global_attn_every_n_layers": 2, "global_rope_theta": 80000.0, "local_rope_theta": 5000.0}
    rng = np.random.default_rng(0)
    weights = {prefix + name: tensor for name, tensor in load_file(path / "model.safetensors").items()}
    weights["pruning_head.classifier.weight"] = rng.standard_normal((2, 32)).astype(np.float32)
    weights["pruning_head.classifier.bias"] = rng.standard_normal(2).astype(np.float32)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["OpenProvenceForSequenceClassification"],
        "auto_map": {"AutoModel": "modeling_open_provence_standalone.OpenProvenceForSequenceClassification"},
        "model_type": "open_provence", "mode": "reranking_pruning", "encoder_architecture": base["model_type"],
        "base_model_config": base, "pruning_config": {"hidden_size": 32, "num_labels": 2}, "max_length": 256,
        "num_labels": 1, "num_pruning_labels": 2, "transformers_version": version,
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    return path


def windowed(path: Path, **options: Any) -> WindowedScorer:
    scorer = load_pair_scorer(path, **options)
    assert isinstance(scorer, WindowedScorer)
    return scorer


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_rank_equals_transformers(tmp_path: Path, family: str, labels: int) -> None:
    scorer = load_pair_scorer(classifier(tmp_path, family, labels))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    taken = {"input_ids", "attention_mask"} | ({"token_type_ids"} if family == "bert" else set())
    ranks = []
    for pair, got in zip(PAIRS, scorer.score(PAIRS), strict=True):
        encoded = tokenizer([pair], return_tensors="pt", return_offsets_mapping=True)
        with torch.inference_mode():
            logits = model(**{name: encoded[name] for name in taken}).logits[0].numpy()
        ranks.append(logits[0] if labels == 1 else logits[1] - logits[0])
        assert got.rank == pytest.approx(ranks[-1], abs=1e-4)
        assert got.keep is None
        inside = np.array([i == 1 for i in encoded.sequence_ids(0)])
        assert np.array_equal(got.offsets, encoded["offset_mapping"][0].numpy()[inside])
    assert np.ptp(ranks) > 0.01


def test_token_types_count_unless_the_tokenizer_gives_none(tmp_path: Path) -> None:
    typed = load_pair_scorer(classifier(tmp_path / "typed", "bert")).score(PAIRS[:1])[0]
    path = classifier(tmp_path / "untyped", "bert")
    edit(path / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    untyped = load_pair_scorer(path).score(PAIRS[:1])[0]
    assert abs(typed.rank - untyped.rank) > 1e-3
    encoded = AutoTokenizer.from_pretrained(path)([PAIRS[0]], return_tensors="pt")
    with torch.inference_mode():
        logits = AutoModelForSequenceClassification.from_pretrained(path).eval()(input_ids=encoded["input_ids"]).logits
    assert untyped.rank == pytest.approx(float(logits[0, 0]), abs=1e-4)


def reference(path: Path, query: str, passage: str, *, normed: bool) -> tuple[float, np.ndarray]:
    """Rank and keep logits of one OpenProvence pair, written out for transformers."""
    config = json.loads((path / "config.json").read_text())["base_model_config"]
    theta = {
        "full_attention": config.pop("global_rope_theta", 0),
        "sliding_attention": config.pop("local_rope_theta", 0),
    }
    rope = {kind: {"rope_type": "default", "rope_theta": value} for kind, value in theta.items()}
    layers = {"layer_types": ["full_attention", "sliding_attention", "full_attention"], "rope_parameters": rope}
    known = xlmr() if config["model_type"] == "xlm-roberta" else modern(**layers)
    known.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(known).eval()
    weights = {name: torch.from_numpy(tensor) for name, tensor in load_file(path / "model.safetensors").items()}
    head = [weights.pop(f"pruning_head.classifier.{part}") for part in ("weight", "bias")]
    model.load_state_dict({name.removeprefix("ranking_model."): tensor for name, tensor in weights.items()})
    # AutoTokenizer would warn of the unknown model_type.
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path / "tokenizer.json"))
    encoded = tokenizer([(query, passage)], return_tensors="pt")
    inside = torch.tensor([i == 1 for i in encoded.sequence_ids(0)])
    with torch.inference_mode():
        rank = float(model(input_ids=encoded["input_ids"]).logits[0, 0])
        if not normed:
            model.base_model.final_norm = torch.nn.Identity()
        states = model.base_model(input_ids=encoded["input_ids"]).last_hidden_state[0]
        logits = (states @ head[0].T + head[1])[inside]
    return rank, (logits[:, 1] - logits[:, 0]).numpy()


@pytest.mark.parametrize(
    ("family", "version", "normed"),
    [("modernbert", "4.57.1", False), ("modernbert", "5.2.0", True), ("xlmr", "4.57.1", True)],
)
def test_open_provence_equals_its_heads_on_transformers(
    tmp_path: Path, family: str, version: str, normed: bool
) -> None:
    path = open_provence(tmp_path, family, version=version)
    pairs, differs = PAIRS[:3], []
    for pair, got in zip(pairs, load_pair_scorer(path).score(pairs), strict=True):
        rank, keep = reference(path, *pair, normed=normed)
        assert got.rank == pytest.approx(rank, abs=1e-4)
        assert got.keep is not None
        assert len(got.keep) == len(got.offsets)
        np.testing.assert_allclose(got.keep, keep, atol=1e-4)
        differs.append(family == "xlmr" or np.abs(got.keep - reference(path, *pair, normed=not normed)[1]).max() > 0.1)
    assert any(differs), "the norm changes nothing here"


def test_open_provence_keys_without_a_prefix(tmp_path: Path) -> None:
    plain, old = (open_provence(tmp_path / p, prefix=p) for p in ("ranking_model.", ""))
    for a, b in zip(load_pair_scorer(plain).score(PAIRS), load_pair_scorer(old).score(PAIRS), strict=True):
        same(a, b)


def same(a: PairScores, b: PairScores) -> None:
    assert a.rank == pytest.approx(b.rank, abs=1e-4)
    assert (a.keep is None) == (b.keep is None)
    if a.keep is not None and b.keep is not None:
        np.testing.assert_allclose(a.keep, b.keep, atol=1e-4)


@pytest.mark.parametrize("kind", ["classifier", "open_provence"])
def test_batch_equals_singles_and_windows_hold_everything(tmp_path: Path, kind: str) -> None:
    path = classifier(tmp_path, "bert") if kind == "classifier" else open_provence(tmp_path)
    scorer = windowed(path, batch_tokens=600)
    pairs = [*PAIRS, ("word", LONG), ("why " * 90, LONG), PAIRS[0], ("a", "")]
    together = scorer.score(pairs)
    for pair, scores in zip(pairs, together, strict=True):
        same(scores, scorer.score([pair])[0])
    assert together[7] is together[0]
    query, passage = tokenize(scorer.tokenizer, pairs[5])
    sequences, spans = cut_pair(scorer.form, query, passage, window=scorer.window, max_query=8, overlap=64)
    outputs = scorer.model.run(sequences)
    assert len(spans) > 1
    assert together[5].rank == pytest.approx(max(rank for rank, _ in outputs), abs=1e-4)
    assert together[5].offsets[-1, 1] == len(LONG)
    if kind == "open_provence":
        keep = together[5].keep
        assert keep is not None
        for sequence, (_, values), (a, b) in zip(sequences, outputs, spans, strict=True):
            middle = (a + b) // 2
            assert values is not None
            assert keep[middle] == pytest.approx(values[sequence.start + middle - a], abs=1e-4)


def test_window_is_the_smallest_limit_of_the_checkpoint(tmp_path: Path) -> None:
    assert windowed(open_provence(tmp_path / "op")).window == 256
    path = classifier(tmp_path / "bert", "bert")
    edit(path / "tokenizer_config.json", model_max_length=10**30)
    assert windowed(path).window == 512
    path = classifier(tmp_path / "limited", "bert")
    edit(path / "tokenizer_config.json", model_max_length=200)
    assert windowed(path).window == 200
    (path / "modules.json").write_text(json.dumps([{"path": "", "type": "sentence_transformers.models.Transformer"}]))
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 100}))
    copied = path.rename(tmp_path / "renamed")
    assert windowed(copied).window == 100
    assert windowed(classifier(tmp_path / "xlmr", "xlmr")).window == 512


def test_loading_is_memoised(tmp_path: Path) -> None:
    path = classifier(tmp_path, "bert")
    assert load_pair_scorer(path) is load_pair_scorer(str(path))


def test_bfloat16_is_close(tmp_path: Path) -> None:
    path = open_provence(tmp_path)
    for exact, half in zip(
        load_pair_scorer(path).score(PAIRS), load_pair_scorer(path, dtype="bfloat16").score(PAIRS), strict=True
    ):
        assert exact.keep is not None
        assert half.keep is not None
        assert half.keep.dtype == np.float32
        assert 0 < np.abs(exact.keep - half.keep).max() < 0.5


def test_what_is_no_pair_scorer_is_refused(tmp_path: Path) -> None:
    tokens = classifier(tmp_path / "tokens", "modernbert", 2, AutoModelForTokenClassification)
    with pytest.raises(ModelError, match=r"ModernBertForTokenClassification, which scores no pairs: use a sequence cl"):
        load_pair_scorer(tokens)
    edit(tokens / "config.json", architectures=None)
    bare = tiny_bert(tmp_path / "bare", labels=0)
    edit(bare / "config.json", architectures=None)
    with pytest.raises(ModelError, match=r"lacks the weights \['classifier.bias', 'classifier.weight'\]"):
        load_pair_scorer(bare)
    with pytest.raises(ModelError, match="has 3 labels"):
        load_pair_scorer(classifier(tmp_path / "three", "bert", 3))
    path = classifier(tmp_path / "unpaired", "bert")
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    edit(path / "tokenizer.json", post_processor={**tokenizer["post_processor"], "pair": [
        {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}]})  # fmt: skip
    with pytest.raises(ModelError, match="no separator for pairs"):
        load_pair_scorer(path)
    path = classifier(tmp_path / "short", "bert")
    edit(path / "tokenizer_config.json", model_max_length=8)
    with pytest.raises(ModelError, match="8 positions: a pair needs at least 16"):
        load_pair_scorer(path)


def test_damaged_open_provence_is_refused(tmp_path: Path) -> None:
    path = open_provence(tmp_path / "unbased")
    edit(path / "config.json", base_model_config=None)
    with pytest.raises(ModelError, match="no base_model_config"):
        load_pair_scorer(path)
    path = open_provence(tmp_path / "misfit")
    config = json.loads((path / "config.json").read_text())
    edit(path / "config.json", base_model_config=config["base_model_config"] | {"intermediate_size": 48})
    with pytest.raises(ModelError, match="do not fit"):
        load_pair_scorer(path)
    for name, change, match in (
        ("headless", {"pruning_head.classifier.bias": None}, r"pruning_head.classifier.weight of shape \[2, 32\]"),
        ("onelabel", {"pruning_head.classifier.weight": np.zeros((1, 32), np.float32)}, r"of shape \[2, 32\]"),
        ("rankless", {"ranking_model.classifier.bias": None}, r"missing or unknown are \['classifier.bias'\]"),
    ):
        path = open_provence(tmp_path / name)
        weights = load_file(path / "model.safetensors") | change
        save_file({key: value for key, value in weights.items() if value is not None}, path / "model.safetensors")
        with pytest.raises(ModelError, match=match):
            load_pair_scorer(path)
