"""Quantized checkpoints: saved, loaded, through transformers' own functions, and refused where they are damaged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from generate.models import random_ids, tiny_gpt2, tiny_llama, tiny_phi3, tiny_qwen2
from generate.rounded import rounded, words_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ctxcomp.errors import InputError, ModelError, UnknownMethodError
from ctxcomp.generate.formats import CtxcompConfig, install, load_quantized, quantized_config, save_quantized
from ctxcomp.generate.weights.dfloat11 import compress_lossless
from ctxcomp.generate.weights.grid import find_grid
from ctxcomp.generate.weights.linear import QuantizedLinear
from ctxcomp.generate.weights.quantize import model_bytes
from ctxcomp.generate.weights.tensors import Outliers, QuantizedWeight

IDS = random_ids(2, 9)
FORMATS = ("native", "compressed-tensors", "awq", "gptq", "gptq_v2")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


def change_config(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((path / "config.json").read_text())
    change(config["quantization_config"])
    (path / "config.json").write_text(json.dumps(config))


def change_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip(name: str, symmetric: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    model = rounded(tiny_qwen2(dtype=dtype), symmetric=symmetric)  # with biases, and a head tied to the embedding
    save_quantized(model, words_tokenizer(), tmp_path, format=name)
    loaded = load_quantized(tmp_path, device="cpu")
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.dtype == dtype
    method = json.loads((tmp_path / "config.json").read_text())["quantization_config"]["quant_method"]
    assert method == {"native": "ctxcomp", "gptq_v2": "gptq"}.get(name, name)


@pytest.mark.parametrize("build", [tiny_gpt2, tiny_phi3])
def test_other_architectures(build: Callable[[], Any], tmp_path: Path) -> None:
    model = rounded(build())
    save_quantized(model, None, tmp_path, format="compressed-tensors")
    assert torch.equal(logits(load_quantized(tmp_path, device="cpu")), logits(model))


@pytest.mark.parametrize(("bits", "name"), [(2, "gptq"), (3, "gptq"), (8, "gptq"), (5, "compressed-tensors")])
def test_other_widths(bits: int, name: str, tmp_path: Path) -> None:
    model = rounded(tiny_llama(), bits=bits)
    save_quantized(model, None, tmp_path, format=name)
    assert torch.equal(logits(load_quantized(tmp_path, device="cpu")), logits(model))


@pytest.mark.parametrize("name", FORMATS)
def test_one_group_per_row(name: str, tmp_path: Path) -> None:
    model = rounded(tiny_llama(), group_size=0)
    save_quantized(model, None, tmp_path, format=name)
    assert torch.equal(logits(load_quantized(tmp_path, device="cpu")), logits(model))


def test_layers_of_different_widths(tmp_path: Path) -> None:
    model = rounded(tiny_llama())
    layer = model.model.layers[1].mlp.down_proj
    dense = layer.to_weight().dequantize()
    model.model.layers[1].mlp.down_proj = QuantizedLinear.from_weight(find_grid(dense, 8, 16).quantized(dense))
    save_quantized(model, None, tmp_path, format="compressed-tensors")
    assert torch.equal(logits(load_quantized(tmp_path, device="cpu")), logits(model))
    for name in ("awq", "gptq"):
        with pytest.raises(InputError, match=r"8 bits|one width"):
            save_quantized(model, None, tmp_path / name, format=name)


def anything(n: int, k: int, size: int = 16) -> QuantizedWeight:
    """A weight with everything: mixed widths, outliers, a low-rank part, a short last group."""
    generator = torch.Generator().manual_seed(n + k)
    groups = -(-k // size)
    group_bits = torch.tensor([3, 5] * groups, dtype=torch.uint8)[:groups]
    column_bits = group_bits.repeat_interleave(size)[:k]
    codes = (torch.rand(n, k, generator=generator) * 2**column_bits).to(torch.uint8)
    zeros = (torch.rand(n, groups, generator=generator) * 2**group_bits).to(torch.uint8)
    rows, columns = torch.arange(4, dtype=torch.int32), torch.arange(7, 11, dtype=torch.int32)
    return QuantizedWeight(
        codes,
        torch.rand(n, groups, generator=generator).half() * 0.02,
        zeros,
        bits=4,
        group_size=size,
        group_bits=group_bits,
        outliers=Outliers(rows, columns, torch.randn(4, generator=generator).half()),
        low_rank=(torch.randn(n, 2, generator=generator) * 0.02, torch.randn(2, k, generator=generator) * 0.02),
    )


def test_native_holds_everything(tmp_path: Path) -> None:
    model = tiny_llama(hidden_size=60, num_attention_heads=5, num_key_value_heads=5, intermediate_size=72)
    for layer in model.model.layers:
        layer.mlp.up_proj = QuantizedLinear.from_weight(anything(72, 60))
    save_quantized(model, None, tmp_path)
    loaded = load_quantized(tmp_path, device="cpu")
    assert torch.equal(logits(loaded), logits(model))
    ours, theirs = model.model.layers[0].mlp.up_proj.to_weight(), loaded.model.layers[0].mlp.up_proj.to_weight()
    assert torch.equal(ours.codes, theirs.codes)
    assert ours.nbytes() == theirs.nbytes()
    for name in FORMATS[1:]:
        with pytest.raises(InputError, match="outliers and a low-rank part and groups of different bits"):
            save_quantized(model, None, tmp_path / name, format=name)


def act_ordered(model: Any) -> Any:
    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, QuantizedLinear)]:
        weight = layer.to_weight()
        order = torch.randperm(weight.shape[1], generator=torch.Generator().manual_seed(1))
        groups = (torch.arange(weight.shape[1]) // weight.group_size)[order].int()
        scattered = QuantizedWeight(weight.codes, weight.scales, weight.zeros, 4, weight.group_size, groups=groups)
        model.set_submodule(name, QuantizedLinear.from_weight(scattered))
    return model


@pytest.mark.parametrize("name", ["native", "gptq"])
def test_act_order(name: str, tmp_path: Path) -> None:
    model = act_ordered(rounded(tiny_llama()))
    save_quantized(model, None, tmp_path, format=name)
    assert torch.equal(logits(load_quantized(tmp_path, device="cpu")), logits(model))


@pytest.mark.parametrize("name", ["awq", "compressed-tensors"])
def test_act_order_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="order by activation"):
        save_quantized(act_ordered(rounded(tiny_llama())), None, tmp_path, format=name)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("quantized", [True, False])
def test_lossless(tied: bool, quantized: bool, tmp_path: Path) -> None:
    model = tiny_llama(dtype=torch.bfloat16, tie_word_embeddings=tied)
    model = rounded(model) if quantized else model
    wanted = logits(model)
    compress_lossless(model)
    save_quantized(model, None, tmp_path)
    loaded = load_quantized(tmp_path, device="cpu")
    assert torch.equal(logits(loaded), wanted)
    assert (loaded.lm_head.encoded is loaded.model.embed_tokens.encoded) == tied
    with pytest.raises(InputError, match="losslessly"):
        save_quantized(model, None, tmp_path / "awq", format="awq")


def test_quantized_head_is_no_longer_tied(tmp_path: Path) -> None:
    model = tiny_llama(tie_word_embeddings=True)
    weight = model.lm_head.weight.data
    model.lm_head = QuantizedLinear.from_weight(find_grid(weight, 4, 32).quantized(weight))
    save_quantized(model, None, tmp_path)
    assert torch.equal(logits(load_quantized(tmp_path, device="cpu")), logits(model))


@pytest.mark.parametrize("name", FORMATS)
def test_transformers_runs_it_packed(name: str, tmp_path: Path) -> None:
    """By its own from_pretrained, and still packed after the first tokens."""
    save_quantized(rounded(tiny_llama()), words_tokenizer(), tmp_path, format=name)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, config=quantized_config(tmp_path))
    before = model_bytes(model)
    model.generate(IDS, max_new_tokens=4, do_sample=False)
    assert model_bytes(model) == before
    linears = [m for n, m in model.named_modules() if n.endswith("_proj")]
    assert all(isinstance(m, QuantizedLinear) for m in linears)
    dense = sum(m.in_features * m.out_features * 4 for m in linears)
    assert sum(m.nbytes() for m in linears) < 0.2 * dense
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(load_quantized(tmp_path / "again", device="cpu")), logits(model))


def test_rounded_while_it_is_read(tmp_path: Path) -> None:
    install()
    install()
    tiny_qwen2().save_pretrained(tmp_path / "dense")
    config = CtxcompConfig(bits=4, group_size=32)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", quantization_config=config)
    assert torch.equal(logits(model), logits(rounded(tiny_qwen2())))
    assert isinstance(model.lm_head, torch.nn.Linear)
    model.save_pretrained(tmp_path / "ours")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")  # our own checkpoints need no config=
    assert torch.equal(logits(again), logits(model))
    assert torch.allclose(logits(again.dequantize()), logits(model), atol=1e-5)


def test_gptq_bias_of_zeros_for_layers_without_one(tmp_path: Path) -> None:
    model = rounded(tiny_llama())
    save_quantized(model, None, tmp_path, format="gptq")
    change_tensors(tmp_path, lambda t: t.update({"model.layers.0.mlp.up_proj.bias": torch.zeros(96)}))
    assert torch.equal(logits(load_quantized(tmp_path, device="cpu")), logits(model))


LAYER = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("awq", lambda t: t.pop(f"{LAYER}.scales"), "scales is missing"),
        ("awq", lambda t: t.update({f"{LAYER}.scales": t[f"{LAYER}.scales"][:1].clone()}), "scales is F16"),
        ("gptq", lambda t: t.update({f"{LAYER}.qweight": t[f"{LAYER}.qweight"].long()}), "qweight is I64"),
        ("gptq", lambda t: t[f"{LAYER}.g_idx"].fill_(1), "assigns its 64 columns to groups"),
        ("gptq", lambda t: t[f"{LAYER}.scales"].fill_(float("nan")), "not finite"),
        ("gptq", lambda t: t.pop("model.norm.weight"), "does not hold the whole model"),
        ("gptq", lambda t: t.update({"model.other.qweight": t[f"{LAYER}.qweight"].clone()}), "has no such layer"),
        ("compressed-tensors", lambda t: t[f"{LAYER}.weight_shape"].fill_(3), "weight_shape says"),
        ("compressed-tensors", lambda t: t.pop(f"{LAYER}.weight_zero_point"), "weight_zero_point is missing"),
        ("native", lambda t: t.pop(f"{LAYER}.codes_4"), "codes_4 is missing"),
    ],
)
def test_damaged_tensors(name: str, change: Callable[..., Any], message: str, tmp_path: Path) -> None:
    save_quantized(rounded(tiny_llama()), None, tmp_path, format=name)
    change_tensors(tmp_path, change)
    with pytest.raises(ModelError, match=message):
        load_quantized(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("awq", lambda c: c.update(version="gemv"), "layout 'gemv'"),
        ("awq", lambda c: c.update(bits=3), "bits = 3"),
        ("gptq", lambda c: c.update(checkpoint_format="gptq_p"), "layout 'gptq_p'"),
        ("gptq", lambda c: c.update(bits=5), "bits = 5"),
        ("gptq", lambda c: c.update(group_size="128"), "group_size = '128'"),
        ("gptq", lambda c: c.update(bits=8), "qweight is I32"),
        ("gptq", lambda c: c.update(quant_method="hqq"), "quantized as 'hqq'"),
        ("native", lambda c: c.update(version=2), "version 2"),
        ("native", lambda c: c.update(format="other"), "format 'other'"),
        ("compressed-tensors", lambda c: c.update(config_groups={}), "no config_groups"),
        ("compressed-tensors", lambda c: c.update(transform_config={"a": 1}), "transform_config"),
        ("compressed-tensors", lambda c: c["config_groups"]["group_0"].update(format="nvfp4"), "layout 'nvfp4'"),
        ("compressed-tensors", lambda c: c["config_groups"]["group_0"].update(targets=["x"]), "no group"),
        (
            "compressed-tensors",
            lambda c: c["config_groups"]["group_0"].update(input_activations={"num_bits": 8}),
            "activations",
        ),
        ("compressed-tensors", lambda c: c["config_groups"]["group_0"]["weights"].update(type="float"), "integers"),
        ("compressed-tensors", lambda c: c["config_groups"]["group_0"]["weights"].update(num_bits=1), "num_bits = 1"),
        ("compressed-tensors", lambda c: c["config_groups"]["group_0"]["weights"].update(strategy="block"), "'block'"),
    ],
)
def test_unsupported_settings(name: str, change: Callable[..., Any], message: str, tmp_path: Path) -> None:
    save_quantized(rounded(tiny_llama()), None, tmp_path, format=name)
    change_config(tmp_path, change)
    with pytest.raises(ModelError, match=message):
        load_quantized(tmp_path, device="cpu")


def test_truncated_file(tmp_path: Path) -> None:
    save_quantized(rounded(tiny_llama()), None, tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged"):
        load_quantized(tmp_path, device="cpu")


def test_not_quantized(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="not quantized"):
        load_quantized(tmp_path, device="cpu")
    with pytest.raises(InputError, match="no layer of the model is quantized"):
        save_quantized(tiny_llama(), None, tmp_path)
    with pytest.raises(ModelError, match="no model"):
        load_quantized(tmp_path / "nowhere", device="cpu")


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(UnknownMethodError, match="did you mean 'gptq'"):
        save_quantized(rounded(tiny_llama()), None, tmp_path, format="gptk")


def test_awq_needs_multiples_of_eight(tmp_path: Path) -> None:
    model = tiny_llama(intermediate_size=100)
    with pytest.raises(InputError, match="multiples of 8"):
        save_quantized(rounded(model, group_size=0), None, tmp_path, format="awq")


def test_groups_that_others_would_read_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no multiple of its group size"):
        save_quantized(rounded(tiny_llama(), group_size=48), None, tmp_path, format="compressed-tensors")
