"""Folding moves scales between layers and changes nothing, whatever the architecture."""

import pytest
import torch
from generate import models

from ctxcomp.generate.weights.calibration import walk

LLAMA_LIKE = {("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("down_proj",)}
FUSED = {("qkv_proj",), ("gate_up_proj",), ("down_proj",)}
FOUND = {
    "tiny_llama": LLAMA_LIKE,
    "tiny_mistral": LLAMA_LIKE,
    "tiny_qwen2": LLAMA_LIKE,
    "tiny_qwen3": LLAMA_LIKE,
    "tiny_gemma2": LLAMA_LIKE,
    "tiny_phi3": FUSED,
    "tiny_gpt2": {("c_attn",), ("c_proj",), ("c_fc",)},
    "tiny_gpt_neox": {("query_key_value",), ("dense_h_to_4h",)},
}


def folds(block):
    return {tuple(name.split(".")[-1] for name in fold.targets): fold for fold in block.folds}


@torch.no_grad()
@pytest.mark.parametrize("name", FOUND)
def test_every_fold_leaves_the_logits(name):
    model, ids = getattr(models, name)(), models.random_ids(3, 20)
    before = model(ids).logits
    generator = torch.Generator().manual_seed(1)
    for block in walk(model, ids):
        assert set(folds(block)) == FOUND[name]
        weights = {n: p.clone() for n, p in block.module.named_parameters()}
        for fold in block.folds:
            columns = fold.linears[0].weight.shape[0 if name == "tiny_gpt2" else 1]
            fold.apply(torch.rand(columns, generator=generator) * 3 + 0.3)
        changed = [n for n, p in block.module.named_parameters() if not torch.equal(p, weights[n])]
        assert len(changed) > len(block.folds)
    assert torch.allclose(model(ids).logits, before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_qwen3", "tiny_phi3"])
def test_values_feed_the_output_projection_where_heads_do_not_share_them(name):
    model = getattr(models, name)(num_key_value_heads=4)
    for block in walk(model, models.random_ids(1, 12)):
        assert ("o_proj",) in folds(block)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_to_16_bits_hides_no_fold(dtype):
    for block in walk(models.tiny_gemma2(dtype=dtype), models.random_ids(1, 16)):
        assert set(folds(block)) == LLAMA_LIKE


def test_what_tells_the_loss_is_the_common_parent_or_the_layer_itself():
    block = next(walk(models.tiny_llama(), models.random_ids(1, 12)))
    found = {names[0]: fold.inspected for names, fold in folds(block).items()}
    assert found["q_proj"] is block.module.self_attn
    assert found["gate_proj"] is block.module.mlp
    assert found["down_proj"] is block.module.mlp.down_proj


def test_a_norm_that_something_else_reads_is_not_folded():
    model = models.tiny_llama(num_hidden_layers=1)
    layer = model.model.layers[0]
    mlp = layer.mlp.forward
    layer.mlp.forward = lambda x: mlp(x) + 0.5 * x  # the norm's output goes on past the linear layers
    block = next(walk(model, models.random_ids(1, 12)))
    assert set(folds(block)) == {("q_proj", "k_proj", "v_proj"), ("down_proj",)}
