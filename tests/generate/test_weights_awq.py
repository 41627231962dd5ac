"""AWQ's two searches against a literal reading of AutoAWQ, token by token, and what they are good for."""

import pytest
import torch
from generate import models

from ctxcomp.generate.weights.awq import Awq
from ctxcomp.generate.weights.calibration import walk
from ctxcomp.generate.weights.quantize import quantize
from ctxcomp.generate.weights.statistics import LayerStatistics

BITS, G = 3, 16


def pseudo_quantize(w):
    """AutoAWQ's quantizer; scales in float16 as they are stored."""
    groups = w.reshape(-1, G)
    high, low = groups.amax(1, keepdim=True), groups.amin(1, keepdim=True)
    scales = ((high - low).clamp(min=1e-5) / (2**BITS - 1)).half().float()
    zeros = (-torch.round(low / scales)).clamp(0, 2**BITS - 1)
    codes = torch.clamp(torch.round(groups / scales) + zeros, 0, 2**BITS - 1)
    return ((codes - zeros) * scales).reshape(w.shape)


def autoawq_scales(x, weights, run):
    """``_search_best_scale`` and ``_compute_best_scale`` with duo scaling: x [tokens, K], run(weights) the output."""
    stacked = torch.cat(weights)
    shares = stacked.abs().view(-1, G)
    w_mean = (shares / (shares.amax(1, keepdim=True) + 1e-6)).view(stacked.shape).mean(0)
    x_mean = x.abs().mean(0)
    wanted = run(weights)
    best, best_error = None, float("inf")
    for step in range(20):
        exponent = step / 20
        scales = (x_mean.pow(exponent) / (w_mean.pow(1 - exponent) + 1e-4)).clamp(min=1e-4)
        scales = scales / (scales.max() * scales.min()).sqrt()
        error = (wanted - run([pseudo_quantize(w * scales) / scales for w in weights])).pow(2).mean().item()
        if error < best_error:
            best, best_error = scales, error
    return best


def autoawq_clip(w, x):
    """``_compute_best_clip``: w [N, K], x [tokens, K]."""
    x, w = x.reshape(1, len(x), -1, G), w.reshape(len(w), 1, -1, G)
    highest = w.abs().amax(-1, keepdim=True)
    best, lowest = highest.clone(), torch.ones_like(highest) * 1e9
    wanted = (x * w).sum(-1)
    for step in range(10):
        limit = highest * (1 - step / 20)
        error = ((x * pseudo_quantize(torch.clamp(w, -limit, limit))).sum(-1) - wanted).pow(2).mean(1)
        error = error.view(lowest.shape)
        better = error < lowest
        lowest[better], best[better] = error[better], limit[better]
    return torch.clamp(w, -best, best).reshape(len(w), -1)


def loud(model, factor=12.0):
    """The same model with a few channels that norms make large, as trained models have them."""
    for block in model.model.layers:
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            norm.weight.data[5:60:11] *= factor
    return model


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_scale_search_is_autoawqs(dtype):
    ids = models.random_ids(4, 24)
    block = next(walk(loud(models.tiny_llama(dtype=dtype)), ids))
    mlp = block.module.mlp
    before = [w.clone() for w in (mlp.gate_proj.weight, mlp.up_proj.weight)]
    x = torch.cat([args[0] for args, _ in block.calls(mlp)]).flatten(0, 1)

    def run(weights):
        for module, weight in zip((mlp.gate_proj, mlp.up_proj), weights, strict=True):
            module.weight.copy_(weight)
        return mlp(x).float()

    wanted = autoawq_scales(x.float(), [w.float() for w in before], run)
    run(before)
    norm = block.module.post_attention_layernorm
    was = norm.weight.clone()
    Awq(bits=BITS, group_size=G).prepare_block(block)
    assert torch.allclose(was.float() / norm.weight.float(), wanted, rtol=1e-5 if dtype == torch.float32 else 0.02)
    assert torch.allclose(mlp.gate_proj.weight.float(), before[0].float() * wanted, rtol=0.02, atol=1e-6)


def test_the_clip_search_is_autoawqs():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(10, 64, generator=generator) ** 3
    x = torch.randn(300, 64, generator=generator) * torch.linspace(0.1, 3, 64)
    statistics = LayerStatistics.of(x)
    method = Awq(bits=BITS, group_size=G)
    clipped = method._clipped(weight, statistics.sample)
    assert torch.equal(clipped, autoawq_clip(weight, x))
    assert not torch.equal(clipped, weight)
    quantized = method.quantize_weight(weight, statistics)
    assert torch.allclose(quantized.dequantize(), pseudo_quantize(clipped), atol=1e-5)


@pytest.mark.parametrize(("layer", "clips"), [("self_attn.q_proj", False), ("k_proj", False), ("mlp.up_proj", True)])
def test_queries_and_keys_are_never_clipped(layer, clips):
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0)) ** 3
    found = LayerStatistics.of(torch.randn(64, 32, generator=torch.Generator().manual_seed(1)))
    named = LayerStatistics(found.tokens, found.mean_abs, found.max_abs, found.sample, found.hessian, layer)
    method, plain = (Awq(bits=BITS, group_size=G, clip=c) for c in (True, False))
    same = torch.equal(method.quantize_weight(weight, named).codes, plain.quantize_weight(weight, named).codes)
    assert same is not clips


@torch.no_grad()
@pytest.mark.parametrize("name", ["tiny_llama", "tiny_phi3", "tiny_gpt_neox"])
def test_preparing_changes_nothing_the_model_says(name):
    model, ids = getattr(models, name)(), models.random_ids(3, 20)
    before = model(ids).logits
    for block in walk(model, ids):
        Awq(bits=BITS, group_size=G, grid=4).prepare_block(block)
    assert torch.allclose(model(ids).logits, before, atol=1e-4)


@pytest.mark.parametrize("method", ["awq", "smoothquant+"])
def test_large_channels_are_protected(method):
    kl = {}
    for name in ("rtn", method):
        model = loud(models.tiny_llama())
        report = quantize(
            model, name, models.random_ids(6, 32), bits=BITS, group_size=32, held_out=models.random_ids(6, 32, seed=1)
        )
        kl[name] = report.fidelity.mean_kl
    assert kl[method] < 0.8 * kl["rtn"]
