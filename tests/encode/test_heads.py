"""Head files: classifier and LoRA deltas on a frozen encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ctxcomp.encode import load_encoder
from ctxcomp.errors import ModelError

RNG = np.random.default_rng(0)
MODULE = "encoder.layer.1.attention.self.query"
SEQUENCE = [np.array([101, 2000, 2001, 2002, 102])]


def write(path: Path, *, labels: int = 2, metadata: dict[str, str] | None = None, **extra: np.ndarray) -> Path:
    tensors = {
        "classifier.weight": RNG.standard_normal((labels, 32)).astype(np.float32),
        "classifier.bias": RNG.standard_normal(labels).astype(np.float32),
    }
    save_file(tensors | {name.replace("__", "."): value for name, value in extra.items()}, path, metadata=metadata)
    return path


def lora(module: str, *, rank: int = 4, width: int = 32) -> dict[str, np.ndarray]:
    return {
        f"{module}.lora_A": RNG.standard_normal((rank, width)).astype(np.float32),
        f"{module}.lora_B": RNG.standard_normal((32, rank)).astype(np.float32),
    }


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_head_file_is_a_linear_layer_on_the_states(bert: Path, tmp_path: Path, runtime: str) -> None:
    path = write(tmp_path / "head.safetensors", labels=5)
    encoder = load_encoder(bert, head=path, runtime=runtime)
    assert encoder.num_labels == 5
    tensors = load_file(path)
    expected = load_encoder(bert).hidden(SEQUENCE)[0] @ tensors["classifier.weight"].T + tensors["classifier.bias"]
    np.testing.assert_allclose(encoder.token_logits(SEQUENCE)[0], expected, atol=1e-4)


@pytest.mark.parametrize("prefix", ["", "bert."])
@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_lora_equals_a_merged_checkpoint(bert: Path, tmp_path: Path, runtime: str, prefix: str) -> None:
    deltas = lora(MODULE)
    merged = tmp_path / "merged"
    merged.mkdir()
    for file in bert.iterdir():
        (merged / file.name).write_bytes(file.read_bytes())
    weights = load_file(bert / "model.safetensors")
    weights[f"bert.{MODULE}.weight"] += deltas[f"{MODULE}.lora_B"] @ deltas[f"{MODULE}.lora_A"] * np.float32(0.25)
    save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})
    head = write(
        tmp_path / "head.safetensors",
        metadata={"lora_scale": "0.25"},
        **{prefix + key: value for key, value in deltas.items()},
    )
    got = load_encoder(bert, head=head, runtime=runtime).hidden(SEQUENCE)[0]
    np.testing.assert_allclose(got, load_encoder(merged).hidden(SEQUENCE)[0], atol=1e-4)
    assert np.abs(got - load_encoder(bert).hidden(SEQUENCE)[0]).max() > 0.01


def test_one_label_is_a_sigmoid(bert: Path, tmp_path: Path) -> None:
    encoder = load_encoder(bert, head=write(tmp_path / "head.safetensors", labels=1))
    [tokens] = encoder.tokenize(["some words here"])
    logits = encoder.token_logits([encoder.with_specials(tokens.ids)])[0][1:-1, 0]
    np.testing.assert_allclose(encoder.keep_probs(["some words here"])[0][1], 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_head_is_in_the_hash(bert: Path, tmp_path: Path) -> None:
    hashes = [load_encoder(bert, head=write(tmp_path / f"{i}.safetensors")).weights_hash for i in range(2)]
    assert len({*hashes, load_encoder(bert).weights_hash}) == 3


def test_rewritten_head_file_is_read_again(bert: Path, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    first = load_encoder(bert, head=write(path, labels=2))
    second = load_encoder(bert, head=write(path, labels=3))
    assert (first.num_labels, second.num_labels) == (2, 3)


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_bad_heads_are_refused(bert: Path, contriever: Path, tmp_path: Path, runtime: str) -> None:
    with pytest.raises(ModelError, match="no head file"):
        load_encoder(bert, head=tmp_path / "absent.safetensors", runtime=runtime)
    with pytest.raises(ModelError, match="no token-classification head"):
        load_encoder(contriever, head="token", runtime=runtime)
    damaged = write(tmp_path / "damaged.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:-7])
    with pytest.raises(ModelError, match="damaged"):
        load_encoder(bert, head=damaged, runtime=runtime)
    one_sided = lora(MODULE)
    del one_sided[f"{MODULE}.lora_B"]
    with pytest.raises(ModelError, match=r"missing \['encoder.layer.1.attention.self.query.lora_B'\]"):
        load_encoder(bert, head=write(tmp_path / "one.safetensors", **one_sided), runtime=runtime)
    absent = write(tmp_path / "nine.safetensors", **lora("encoder.layer.9.attention.self.query"))
    with pytest.raises(ModelError, match=r"LoRA for 'encoder\.layer\.9"):
        load_encoder(bert, head=absent, runtime=runtime)
    with pytest.raises(ModelError, match="LoRA for"):
        load_encoder(bert, head=write(tmp_path / "wide.safetensors", **lora(MODULE, width=33)), runtime=runtime)
    wide = tmp_path / "width.safetensors"
    save_file({"classifier.weight": np.zeros((2, 31), np.float32), "classifier.bias": np.zeros(2, np.float32)}, wide)
    with pytest.raises(ModelError, match="31"):
        load_encoder(bert, head=wide, runtime=runtime)


def test_outputs_that_are_independent_are_each_a_sigmoid(bert: Path, tmp_path: Path) -> None:
    facts = {"labels": "rank,keep,word", "activation": "sigmoid"}
    encoder = load_encoder(bert, head=write(tmp_path / "head.safetensors", labels=3, metadata=facts))
    assert (encoder.labels, encoder.independent) == (("rank", "keep", "word"), True)
    (logits,) = encoder.token_logits([encoder.with_specials(encoder.tokenize(["some words here"])[0].ids)])
    for label in range(3):
        [(_, found)] = encoder.keep_probs(["some words here"], label=label)
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits[1:-1, label])), atol=1e-6)


@pytest.mark.parametrize(
    ("facts", "message"),
    [({"labels": "drop,keep"}, "3 outputs, but 2 labels"), ({"activation": "relu"}, "must be softmax or sigmoid")],
)
def test_metadata_that_does_not_fit_is_refused(bert: Path, tmp_path: Path, facts: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_encoder(bert, head=write(tmp_path / "head.safetensors", labels=3, metadata=facts))
