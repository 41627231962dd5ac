"""The one call: what it changes, what it leaves, what it reports, what it refuses."""

import copy
import json

import pytest
import torch
from generate import models
from torch import nn

from ctxcomp.errors import InputError, UnknownMethodError
from ctxcomp.generate.weights import QuantizedLinear, quantize
from ctxcomp.progress import listen

IDS, HELD_OUT = models.random_ids(4, 32), models.random_ids(3, 32, seed=1)
NAMES = ["rtn", "awq", "smoothquant+", "gptq", "spqr", "slim"]


def layers(model, kind):
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


@pytest.mark.parametrize("method", NAMES)
def test_every_method_makes_a_small_model_that_says_nearly_the_same(method):
    model = models.tiny_llama()
    report = quantize(model, method, IDS, bits=4, group_size=16, held_out=HELD_OUT)
    assert layers(model, nn.Linear) == ["lm_head"] == list(report.left)
    assert [layer.name for layer in report.layers] == layers(model, QuantizedLinear)
    assert 0 < report.fidelity.mean_kl < 0.05
    assert all(0 < layer.error < 0.2 for layer in report.layers)
    assert all(layer.bytes_after < 0.27 * layer.bytes_before for layer in report.layers)
    assert not model.training


@pytest.mark.parametrize("name", ["tiny_gemma2", "tiny_phi3", "tiny_gpt2", "tiny_gpt_neox"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_architecture(name, dtype):
    model = getattr(models, name)(dtype=dtype)
    report = quantize(model, "awq", IDS, bits=8, group_size=16, grid=3, held_out=HELD_OUT)
    assert 0 <= report.fidelity.mean_kl < 0.001
    assert len(report.layers) == (14 if name == "tiny_gemma2" else 8)
    with torch.no_grad():
        assert model(IDS).logits.dtype == dtype


def test_rtn_needs_no_calibration_and_its_error_is_the_weights():
    model = models.tiny_llama()
    weight = model.model.layers[0].mlp.down_proj.weight.detach().clone()
    report = quantize(model, "rtn", bits=4, group_size=16)
    found = model.model.layers[0].mlp.down_proj.to_weight().dequantize()
    error = next(layer.error for layer in report.layers if layer.name.endswith("0.mlp.down_proj"))
    assert error == pytest.approx(float((found - weight).norm() / weight.norm()), rel=1e-5)


def test_fidelity_is_perplexity_and_divergence():
    model = models.tiny_llama()
    original = copy.deepcopy(model)
    found = quantize(model, "rtn", bits=3, group_size=16, held_out=HELD_OUT).fidelity
    with torch.no_grad():
        p, q = (m(HELD_OUT).logits.float().log_softmax(-1) for m in (original, model))
    next_token = HELD_OUT[:, 1:, None]
    before, after = (float(-one[:, :-1].gather(-1, next_token).mean()) for one in (p, q))
    assert found.perplexity_before == pytest.approx(torch.tensor(before).exp().item(), rel=1e-4)
    assert found.perplexity_after == pytest.approx(torch.tensor(after).exp().item(), rel=1e-4)
    assert found.mean_kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3)
    assert found.same_choice == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).float().mean()))
    assert (found.tokens, found.kl_tokens) == (93, 96)
    assert found.kl_error > 0


def test_errors_are_of_the_outputs_on_the_calibration_texts():
    model = models.tiny_llama(num_hidden_layers=1)
    original = copy.deepcopy(model)
    report = quantize(model, "rtn", IDS, bits=3, group_size=16)
    seen = {}
    with torch.no_grad():
        for name, one in (("was", original), ("is", model)):
            proj = one.model.layers[0].self_attn.q_proj
            proj.register_forward_hook(lambda _, __, y, name=name: seen.__setitem__(name, y))
            one(IDS)
    assert report.layers[0].error == pytest.approx(
        float((seen["is"] - seen["was"]).norm() / seen["was"].norm()), rel=1e-4
    )


def test_low_rank_parts_lower_the_errors():
    reports = [quantize(models.tiny_llama(), "rtn", IDS, bits=3, group_size=16, eora_rank=r) for r in (0, 8)]
    assert reports[1].method == "rtn+eora"
    assert reports[1].settings["eora_rank"] == 8
    pairs = zip(*(report.layers for report in reports), strict=True)
    better = [b.error < a.error for a, b in pairs]
    assert sum(better) == len(better)


def test_lossless_is_lossless():
    model = models.tiny_llama(dtype=torch.bfloat16)
    with torch.no_grad():
        before = model(IDS).logits
    report = quantize(model, "dfloat11", held_out=HELD_OUT, skip=("down_proj",))
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, before)
    assert report.fidelity.mean_kl == 0
    assert {"lm_head", "model.embed_tokens"} <= {layer.name for layer in report.layers}
    assert report.left == tuple(f"model.layers.{i}.mlp.down_proj" for i in (0, 1))


def test_layers_can_be_skipped_by_name_last_part_and_pattern():
    model = models.tiny_llama()
    skip = ("down_proj", "model.layers.0.self_attn.q_proj", "*.1.self_attn.*")
    quantize(model, "rtn", bits=4, group_size=16, skip=skip)
    left = layers(model, nn.Linear)
    assert left == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.down_proj",
        *(f"model.layers.1.self_attn.{x}_proj" for x in "qkvo"),
        "model.layers.1.mlp.down_proj",
        "lm_head",
    ]


def test_progress_is_told_block_by_block():
    told = []
    with listen(lambda done, total: told.append((done, total))):
        quantize(models.tiny_llama(num_hidden_layers=3), "rtn", group_size=16)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_the_report_is_a_table_and_json():
    report = quantize(models.tiny_llama(), "awq", IDS, bits=4, group_size=16, held_out=HELD_OUT)
    table = str(report)
    assert "model.layers.1.mlp.down_proj" in table
    assert "held-out perplexity" in table
    assert json.loads(json.dumps(report.as_dict()))["settings"]["duo_scaling"] is True
    assert report.bytes_after < report.bytes_before


def test_it_is_the_same_every_time():
    codes = []
    for _ in range(2):
        model = models.tiny_llama()
        quantize(model, "awq", IDS, bits=3, group_size=16)
        codes.append(model.model.layers[1].mlp.up_proj.to_weight().codes)
    assert torch.equal(*codes)


def test_quantized_weights_generate():
    model = models.tiny_llama()
    quantize(model, "rtn", bits=8, group_size=16)
    found = model.generate(IDS[:2], max_new_tokens=6, do_sample=False, attention_mask=torch.ones_like(IDS[:2]))
    wanted = models.tiny_llama().generate(
        IDS[:2], max_new_tokens=6, do_sample=False, attention_mask=torch.ones_like(IDS[:2])
    )
    assert found.shape == wanted.shape


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"method": "awk"}, UnknownMethodError, "awq"),
        ({"method": "awq"}, InputError, "calibration"),
        ({"method": "rtn", "eora_rank": 4}, InputError, "calibration"),
        ({"method": "rtn", "eora_rank": -1}, InputError, "eora_rank"),
        ({"method": "rtn", "bits": 1}, InputError, "2 to 8"),
        ({"method": "rtn", "bits": 4.0}, InputError, "bits"),
        ({"method": "rtn", "group_size": -1}, InputError, "group_size"),
        ({"method": "smoothquant+", "step": 0.0}, InputError, "step"),
        ({"method": "rtn", "clip": True}, UnknownMethodError, "clip"),
        ({"method": "dfloat11", "clip": True}, UnknownMethodError, "no settings"),
        ({"method": "dfloat11", "eora_rank": 4}, InputError, "dfloat11"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_changes(arguments, error, says):
    model = models.tiny_llama()
    with pytest.raises(error, match=says):
        quantize(model, **arguments)
    assert not layers(model, QuantizedLinear)


def test_a_method_has_its_own_group_size():
    ids = models.random_ids(2, 16)
    report = quantize(models.tiny_llama(), "spqr", ids)
    assert report.settings["group_size"] == 16
    assert quantize(models.tiny_llama(), "spqr", ids, group_size=32).settings["group_size"] == 32
    assert quantize(models.tiny_llama(), "rtn").settings["group_size"] == 128
