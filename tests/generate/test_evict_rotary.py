"""Rotary turns as the models themselves do, whatever their pairs, parts and scalings."""

import sys

import pytest
import torch
from generate.models import SIZES, build, tiny_gpt2, tiny_gpt_neox, tiny_llama
from transformers import CohereConfig, Gemma3TextConfig, GlmConfig

from ctxcomp.generate.cache.rotary import Rotary

SCALED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALED |= {"original_max_position_embeddings": 64, "rope_theta": 500.0}
MODELS = {
    "llama": tiny_llama,
    "llama3": lambda: tiny_llama(rope_parameters=SCALED),
    "yarn": lambda: tiny_llama(rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}),
    "neox": tiny_gpt_neox,
    "cohere": lambda: build(CohereConfig(**SIZES)),
    "glm": lambda: build(GlmConfig(**SIZES, head_dim=16)),
    "gemma3": lambda: build(
        Gemma3TextConfig(**SIZES, head_dim=16, layer_types=["sliding_attention", "full_attention"])
    ),
}


def attention_of(model, layer=1):
    base = model.gpt_neox if hasattr(model, "gpt_neox") else model.model
    layer = base.layers[layer]
    return getattr(layer, "self_attn", None) or layer.attention, base.rotary_emb


@pytest.mark.parametrize("kind", MODELS)
def test_turns_as_the_model_does(kind):
    module, embedding = attention_of(MODELS[kind]())
    x, positions = torch.randn(2, 4, 9, 16, generator=torch.Generator().manual_seed(0)), torch.arange(70, 79)
    options = {"layer_type": "full_attention"} if kind == "gemma3" else {}
    cos, sin = embedding(x, positions[None], **options)
    expected, _ = sys.modules[type(module).__module__].apply_rotary_pos_emb(x, x, cos, sin)
    factor = getattr(embedding, "attention_scaling", 1.0)
    rotary = Rotary.of(module)
    turned = rotary.turn(x, positions)
    torch.testing.assert_close(turned * factor, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rotary.turn(turned, -positions), x, rtol=1e-4, atol=1e-5)
    mean = torch.stack([rotary.turn(x[:, :, 0], p.expand(4)) for p in positions]).mean(0)
    torch.testing.assert_close(x[:, :, 0] @ rotary.mean_turn(positions, 16), mean, rtol=1e-4, atol=1e-5)


def test_no_rotary_where_there_is_none():
    assert Rotary.of(tiny_gpt2().transformer.h[0].attn) is None
