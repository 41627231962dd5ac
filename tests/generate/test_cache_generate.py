"""Inside ``model.generate``: plain, padded, with beams, with lookup, compiled."""

import pytest
import torch
from generate.models import (
    random_ids,
    tiny_gemma2,
    tiny_gpt2,
    tiny_gpt_neox,
    tiny_llama,
    tiny_mistral,
    tiny_phi3,
    tiny_qwen2,
    tiny_qwen3,
)
from transformers import CompileConfig, DynamicCache

from ctxcomp.errors import InputError
from ctxcomp.generate.cache import CompressedCache, install

MODELS = {
    "llama": tiny_llama,
    "qwen2": tiny_qwen2,
    "qwen3": tiny_qwen3,
    "mistral": tiny_mistral,
    "phi3": tiny_phi3,
    "neox": tiny_gpt_neox,
    "gpt2": tiny_gpt2,
}


def answer(model, ids, policy=None, new=8, **kwargs):
    if policy is not None:
        kwargs["past_key_values"] = CompressedCache(model.config, policy)
    return model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0, **kwargs)


def logits(model, ids, cache, prompt=80, **kwargs):
    with torch.no_grad():
        parts = [model(ids[:, :prompt], past_key_values=cache).logits]
        parts += [model(ids[:, i : i + 1], past_key_values=cache).logits for i in range(prompt, ids.shape[1])]
    return torch.cat(parts, 1)


@pytest.mark.parametrize("name", MODELS)
def test_architectures(name):
    model, ids = MODELS[name](), random_ids(1, 90)
    plain, reference = answer(model, ids[:, :80]), logits(model, ids, DynamicCache(config=model.config))
    for attention in ("sdpa", "ctxcomp"):
        if attention == "ctxcomp":
            install(model)
        assert torch.equal(answer(model, ids[:, :80], "none"), plain)
        assert torch.equal(logits(model, ids, CompressedCache(model.config, "none")), reference)
        found = logits(model, ids, CompressedCache(model.config, "kivi8"))
        torch.testing.assert_close(found, reference, rtol=0, atol=0.05 * reference.std().item())
    evicted = logits(model, ids, CompressedCache(model.config, "streaming(tokens=40)+kivi4"))
    assert not torch.allclose(evicted[:, -1], reference[:, -1], atol=1e-3)
    everything = logits(model, ids, CompressedCache(model.config, "snapkv(keep=1.0)"))
    assert torch.equal(everything, reference)


@pytest.mark.parametrize("policy", ["none", "kivi4", "snapkv(keep=0.4)", "h2o(tokens=30)+int4", "zipcache"])
def test_a_left_padded_batch_is_its_rows_alone(policy):
    model, new = tiny_llama(), 20
    install(model)
    lengths, ids = [90, 75], random_ids(2, 90)
    mask = torch.ones_like(ids)
    mask[1, :15] = 0
    batch = answer(model, ids * mask, policy, new, attention_mask=mask)
    exact = policy not in ("kivi4", "zipcache", "h2o(tokens=30)+int4")  # padding moves the borders of their blocks
    for row, length in enumerate(lengths):
        alone = answer(model, ids[row : row + 1, -length:], policy, new)
        same = (batch[row, -new:] == alone[0, -new:]).float().mean()
        assert same == 1 if exact or length == 90 else same > 0


def test_beams_are_reordered():
    model, ids = tiny_llama(), random_ids(2, 80)
    plain = answer(model, ids, num_beams=3)
    install(model)
    assert torch.equal(answer(model, ids, "none", num_beams=3), plain)
    assert answer(model, ids, "snapkv(keep=0.5)+kivi4", num_beams=3).shape == plain.shape
    assert answer(model, ids, "static8(max_tokens=100)", num_beams=3).shape == plain.shape


@pytest.mark.parametrize("policy", ["none", "int8", "kivi8", "snapkv(keep=0.5,interval=0)", "static8(max_tokens=128)"])
def test_prompt_lookup_drafts_and_crops(policy):
    model = tiny_llama()
    install(model)
    ids = random_ids(1, 20).repeat(1, 4)
    plain = answer(model, ids, policy, 24)
    assert torch.equal(answer(model, ids, policy, 24, prompt_lookup_num_tokens=5), plain)


def test_static_compiles_as_one_graph():
    model, ids = tiny_llama(num_hidden_layers=1), random_ids(1, 40)
    install(model)
    policy = "static4(max_tokens=64)"
    compiled = CompileConfig(fullgraph=True, backend="aot_eager", mode=None)
    compiled._compile_all_devices = True
    eager = answer(model, ids, policy, disable_compile=True)
    calls = torch._dynamo.utils.counters
    calls.clear()
    assert torch.equal(answer(model, ids, policy, compile_config=compiled), eager)
    assert calls["stats"]["unique_graphs"] >= 1
    assert not calls["graph_break"]
    torch._dynamo.reset()


def test_static_rows_lengths_and_left_padding():
    model, ids = tiny_llama(), random_ids(2, 60)
    install(model)
    mask = torch.ones_like(ids)
    mask[1, :25] = 0
    batch = answer(model, ids * mask, "static8(max_tokens=100)", attention_mask=mask)
    assert torch.equal(batch[1, -8:], answer(model, ids[1:, 25:], "static8(max_tokens=100)")[0, -8:])
    cache = CompressedCache(model.config, "static4(max_tokens=100)")
    assert cache.nbytes() == 0
    logits(model, ids[:1], cache, prompt=50)
    assert int(cache.get_seq_length()) == 60
    assert cache.nbytes() >= 2 * 2 * 2 * 100 * (8 + 4)  # keys and values, layers, heads, slots, bytes of 16 channels
    cache.crop(-20)
    again = logits(model, ids[:1, 40:], cache, prompt=1)
    whole = logits(model, ids[:1], CompressedCache(model.config, "static4(max_tokens=100)"), prompt=50)
    torch.testing.assert_close(again, whole[:, 40:], rtol=0.1, atol=0.1)
    plain = tiny_llama()
    with pytest.raises(InputError, match="static cache needs the attention 'ctxcomp'"):
        answer(plain, ids, "static8(max_tokens=100)")


def test_sliding_window_layers_stay_the_librarys_own():
    model, ids = tiny_mistral(sliding_window=16), random_ids(1, 60)
    plain = answer(model, ids)
    install(model)
    assert torch.equal(answer(model, ids, "kivi4"), plain)
    gemma = tiny_gemma2(attn_logit_softcapping=None)
    before = answer(gemma, ids)
    install(gemma)
    assert torch.equal(answer(gemma, ids, "none"), before)
    cache = CompressedCache(gemma.config, "snapkv(keep=0.5)")
    logits(gemma, ids, cache)
    assert sorted({type(layer).__name__ for layer in cache.layers}) == ["CompressedLayer", "DynamicSlidingWindowLayer"]


def test_without_a_cache_the_attention_is_the_plain_one():
    model, ids = tiny_llama(), random_ids(2, 30)
    mask = torch.ones_like(ids)
    mask[1, :9] = 0
    with torch.no_grad():
        before = [model(ids, use_cache=False).logits, model(ids, attention_mask=mask, use_cache=False).logits]
        install(model)
        after = [model(ids, use_cache=False).logits, model(ids, attention_mask=mask, use_cache=False).logits]
    real = mask.bool()
    assert torch.equal(after[0], before[0])
    torch.testing.assert_close(after[1][real], before[1][real])
    assert torch.equal(answer(model, ids), answer(tiny_llama(), ids))


def test_a_mask_of_the_callers_own_is_read_at_the_slots():
    model, ids = tiny_llama(num_hidden_layers=1), random_ids(1, 100)
    install(model)
    cache = CompressedCache(model.config, "streaming(tokens=40,sinks=4)")
    logits(model, ids[:, :99], cache, prompt=99)
    hidden = torch.zeros(1, 1, 1, 100)
    hidden[..., 80:90] = torch.finfo(torch.float32).min
    with torch.no_grad():
        found = model(ids[:, 99:], attention_mask=hidden, past_key_values=cache).logits
        mask = torch.zeros(1, 1, 100, 100).masked_fill(
            torch.ones(100, 100).triu(1).bool(), torch.finfo(torch.float32).min
        )
        mask[..., 99, 4:63] = torch.finfo(torch.float32).min
        mask[..., 99, 80:90] = torch.finfo(torch.float32).min
        expected = model(ids, attention_mask=mask, use_cache=False).logits[:, 99:]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
