"""Decoding after eviction equals one forward over everything under a mask that hides, per head, what had left."""

import pytest
import torch
from generate.models import random_ids, tiny_gpt2, tiny_gpt_neox, tiny_llama, tiny_mistral, tiny_qwen2, tiny_qwen3
from generate.views import left_padding, rope_positions
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from ctxcomp.generate.cache import CompressedCache, install

PROMPT, STEPS = 80, 20
METHODS = ["streaming", "snapkv", "h2o", "scissorhands", "expected_attention", "knorm", "random"]
MODELS = {"qwen2": tiny_qwen2, "qwen3": tiny_qwen3, "mistral": tiny_mistral, "neox": tiny_gpt_neox, "gpt2": tiny_gpt2}
FIELDS = "sinks=2,recent=6,interval=8"


def forced(model, policy, ids, padding, prompt=PROMPT):
    """Logits of the given tokens, one at a time after the prompt; the cache; the slots after each step, per layer."""
    cache, positions = CompressedCache(model.config, policy), rope_positions(ids, padding)
    logits, seen = [], []
    for start, end in [(0, prompt), *((t, t + 1) for t in range(prompt, ids.shape[1]))]:
        out = model(
            ids[:, start:end],
            attention_mask=padding[:, :end],
            position_ids=positions[:, start:end],
            past_key_values=cache,
        )
        logits.append(out.logits)
        seen.append([layer.slot_positions() for layer in cache.layers])
    return torch.cat(logits, 1), cache, seen


def hidden_from(seen, padding, heads, kv_heads, prompt=PROMPT):
    """The 4-D mask ``[B, Hq, T, T]`` of each layer, True where a query sees."""
    b, total = padding.shape
    masks = []
    for layer in range(len(seen[0])):
        mask = torch.ones(total, total).tril().bool().repeat(b, kv_heads, 1, 1)
        for step, at in enumerate(range(prompt, total), start=1):
            held = torch.zeros(b, kv_heads, total, dtype=torch.bool)
            slots = seen[step][layer].long().expand(b, kv_heads, -1)
            mask[:, :, at] = held.scatter(2, slots, True)
        mask = mask & padding[:, None, None].bool() | torch.eye(total, dtype=torch.bool)
        masks.append(mask.repeat_interleave(heads // kv_heads, 1))
    return masks


def oracle(model, ids, padding, masks):
    """Logits of one forward, each layer under its own mask."""

    def attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        out = scaled_dot_product_attention(query, key, value, masks[module.layer_idx], scale=scaling)
        return out.transpose(1, 2), None

    AttentionInterface.register("oracle", attention)
    model.set_attn_implementation("oracle")
    return model(ids, position_ids=rope_positions(ids, padding), use_cache=False).logits


def compared(model, policy, lengths):
    """Check the logits against the oracle; returns the cache and what was seen."""
    padding = torch.cat([left_padding(lengths), torch.ones(len(lengths), STEPS, dtype=torch.long)], 1)
    ids = random_ids(len(lengths), PROMPT + STEPS) * padding
    install(model)
    with torch.no_grad():
        found, cache, seen = forced(model, policy, ids, padding)
        heads = model.config.num_attention_heads
        masks = hidden_from(seen, padding, heads, getattr(model.config, "num_key_value_heads", heads))
        expected = oracle(model, ids, padding, masks)
    real = padding.bool()
    torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=2e-4)
    return cache, seen


@pytest.mark.parametrize("method", METHODS)
def test_left_padded_rows_of_grouped_heads(method):
    cache, seen = compared(tiny_llama(), f"{method}(keep=0.4,{FIELDS})", [PROMPT, 47])
    last = seen[-1][1]
    if method != "streaming":
        assert not torch.equal(last[0, 0], last[0, 1])  # each head keeps its own
    assert cache.physical_length(0) < 0.4 * (PROMPT + STEPS) + 8


@pytest.mark.parametrize("kind", MODELS)
def test_other_architectures(kind):
    compared(MODELS[kind](), f"expected_attention(keep=0.3,{FIELDS})", [PROMPT, 61])


def test_merging_nothing_is_evicting():
    compared(tiny_llama(), f"ems(keep=0.4,reach=1.0,{FIELDS})", [PROMPT, 47])


def test_the_oracle_can_tell():
    """A mask that hides one token less gives other logits."""
    model = tiny_llama()
    install(model)
    ids, padding = random_ids(1, PROMPT + STEPS), torch.ones(1, PROMPT + STEPS, dtype=torch.long)
    with torch.no_grad():
        found, _, seen = forced(model, f"snapkv(keep=0.4,{FIELDS})", ids, padding)
        masks = hidden_from(seen, padding, 4, 2)
        gone = (~masks[0][0, 0, -1]).nonzero()[0]
        masks[0][0, 0, -1, gone] = True
        changed = oracle(model, ids, padding, masks)
    assert (found[0, -1] - changed[0, -1]).abs().max() > 2e-3


@pytest.mark.parametrize(("method", "budget"), [*((m, "keep=0.25") for m in [*METHODS, "ems"]), ("h2o", "tokens=40")])
def test_budgets_are_exact_and_the_protected_stay(method, budget):
    model, ids = tiny_llama(), random_ids(1, 240)
    install(model)
    cache = CompressedCache(model.config, f"{method}({budget},sinks=3,recent=10,interval=16)")
    with torch.no_grad():
        model(ids[:, :120], past_key_values=cache)
        size = (lambda seen: -(-seen // 4)) if budget == "keep=0.25" else (lambda seen: 40)
        assert cache.physical_length(0) == cache.physical_length(1) == size(120)
        for t in range(120, 240):
            before = cache.physical_length(0)
            model(ids[:, t : t + 1], past_key_values=cache)
            after = cache.physical_length(0)
            assert cache.get_seq_length() == t + 1
            assert after in (before + 1, size(t) + 1)
            assert after <= size(t) + 16 + 1
            if after != before + 1:
                for layer in cache.layers:
                    held = layer.slot_positions()[0]
                    assert all(set(range(3)) | set(range(t - 10, t)) <= set(head) for head in held.tolist())
                    assert all(len(set(head)) == size(t) + 1 for head in held.tolist())


def test_bytes_fall_with_the_tokens():
    model, ids = tiny_llama(), random_ids(1, 400)
    sizes = []
    for policy in ("none", "streaming(keep=0.25,interval=0)"):
        install(model)
        cache = CompressedCache(model.config, policy)
        with torch.no_grad():
            model(ids, past_key_values=cache)
        sizes.append(cache.nbytes())
    positions = 2 * 2 * 100 * 4
    assert sizes[1] <= sizes[0] / 4 + positions
