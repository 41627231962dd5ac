"""What is heard of the towers, against transformers' own eager attentions and against the features themselves."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from visual.families import FAMILIES, model_of, prompt

from ctxcomp import InputError
from ctxcomp.visual.adapters import adapter_for
from ctxcomp.visual.watch import watch


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def eager_attentions(name, inputs, adapter):
    """The tower's own weights of every layer, as eager attention returns them: ``[images, heads, q, k]``."""
    tower = adapter.tower
    seen = []

    def listen(module, args, output):
        if isinstance(output, tuple) and len(output) == 2 and output[1] is not None and output[1].dim() == 4:
            seen.append(output[1])

    hooks = [m.register_forward_hook(listen) for m in tower.modules() if type(m).__name__.endswith("Attention")]
    before = tower.config._attn_implementation
    tower.set_attn_implementation("eager")
    adapter.encode(inputs)
    tower.set_attn_implementation(before)
    for hook in hooks:
        hook.remove()
    return seen


WITH_WEIGHTS = ["gemma3", "idefics3", "internvl", "llava", "llava_next", "llava_onevision", "mistral3", "smolvlm"]
SEEN_WHOLE = {"mistral3"}
"""Its images are one sequence; the weights of each are a block of the whole."""


@pytest.mark.parametrize("name", WITH_WEIGHTS)
@pytest.mark.parametrize("layer", [0, -1, -2])
def test_signals_equal_eager_attentions(name, layer):
    inputs, layout = prompt(name)
    adapter = adapter_for(model_of(name))
    weights = eager_attentions(name, inputs, adapter)[layer]
    encoded = adapter.encode(inputs, [layer], **layout)
    signals, prefix = encoded.signals, adapter.prefix
    received = signals.received(layer)
    if name in SEEN_WHOLE:
        blocks = torch.block_diag(*[torch.full((n, n), 1 / n) for n in adapter.lengths(inputs)])
        patches = (weights.mean(1)[0] * (blocks > 0)).sum(0) * blocks.amax(0)
    else:
        patches = weights.mean(1)[:, prefix:, prefix:].mean(1).flatten()
    torch.testing.assert_close(received, signals.tokens(patches), atol=1e-6, rtol=1e-5)
    if prefix:
        cls = weights.mean(1)[:, 0, 1:].flatten()
        torch.testing.assert_close(signals.cls_attention(layer), signals.tokens(cls), atol=1e-6, rtol=1e-5)
        content = ~torch.cat([page.structural for page in encoded.pages])
        logits = signals.cls_logits(layer)[content]
        assert logits.std() > 1e-3, "scores before the softmax differ from token to token"


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"])
def test_signals_of_qwen_equal_attention_made_from_its_projections(name):
    """Their towers return no weights, so these are made from the projection and the rotary position embeddings."""
    from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

    inputs, _ = prompt(name)
    adapter = adapter_for(model_of(name))
    attention = adapter.tower.blocks[adapter.layer(-1)].attn
    seen = {}
    hooks = [
        attention.register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True),
        attention.qkv.register_forward_hook(lambda m, a, out: seen.update(qkv=out)),
    ]
    encoded = adapter.encode(inputs, [-1])
    for hook in hooks:
        hook.remove()
    heads = attention.num_heads
    q, k, _ = seen["qkv"].view(len(seen["qkv"]), 3, heads, -1).permute(1, 0, 2, 3)
    q, k = apply_rotary_pos_emb_vision(q, k, *seen["position_embeddings"])
    received = []
    for a, b in zip(seen["cu_seqlens"][:-1], seen["cu_seqlens"][1:], strict=True):
        scores = torch.einsum("qhd,khd->hqk", q[a:b], k[a:b]) * q.shape[-1] ** -0.5
        received.append(scores.softmax(-1).mean((0, 1)))
    expected = torch.cat(received)[encoded.signals.members].mean(1)
    torch.testing.assert_close(encoded.signals.received(-1), expected, atol=1e-6, rtol=1e-5)
    assert len(received) == 2, "the layer sees each image whole"


def perturbed(name, adapter, patch):
    """A hook that changes one patch where patches become tokens."""
    inner = adapter.inner

    def change_input(module, args, kwargs):
        values = args[0].clone(memory_format=torch.contiguous_format)
        values.view(-1, values.shape[-1])[patch] += torch.linspace(-1, 1, values.shape[-1])
        return (values, *args[1:]), kwargs

    def change_output(module, args, output):
        values = output.last_hidden_state.clone()
        image, place = divmod(patch, values.shape[1] - 1)
        values[image, 1 + place] += torch.linspace(-1, 1, values.shape[-1])
        output.last_hidden_state = values
        return output

    if name == "internvl":
        return inner.vision_tower.register_forward_hook(change_output)
    module = "multi_modal_projector"
    if name in ("idefics3", "smolvlm"):
        module = "connector"
    elif name.startswith("qwen"):
        module = "visual.merger"
    return inner.get_submodule(module).register_forward_pre_hook(change_input, with_kwargs=True)


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("patch", [0, 5, 17, 30])
def test_a_patch_reaches_the_tokens_that_name_it(name, patch):
    """Where a patch goes is known: changing it changes the features of its tokens and of no other."""
    inputs, layout = prompt(name)
    adapter = adapter_for(model_of(name))
    before = adapter.encode(inputs, **layout)
    hook = perturbed(name, adapter, patch)
    try:
        after = adapter.encode(inputs, **layout).features
    finally:
        hook.remove()
    changed = torch.nonzero((after - before.features).abs().amax(1) > 1e-6).flatten().tolist()
    named = torch.nonzero((before.signals.members == patch).any(1)).flatten().tolist()
    if name == "llava_onevision":  # tokens between patches are interpolated, and name the nearest patch
        assert set(named) <= set(changed)
    else:
        assert changed == named


def test_the_tower_gets_its_attention_back():
    model = model_of("llava")
    tower = model.model.vision_tower
    before = tower.config._attn_implementation
    with pytest.raises(ZeroDivisionError), watch(tower, [0]):
        raise ZeroDivisionError
    assert tower.config._attn_implementation == before
    with watch(tower, [0]) as heard:
        pass
    assert heard == {}


def test_watching_changes_no_bit():
    inputs, _ = prompt("llava_next")
    adapter = adapter_for(model_of("llava_next"))
    assert torch.equal(adapter.encode(inputs).features, adapter.encode(inputs, [-1, 0]).features)


def test_a_tower_without_cls_says_so():
    inputs, _ = prompt("gemma3")
    signals = adapter_for(model_of("gemma3")).encode(inputs, [-1]).signals
    with pytest.raises(InputError, match="no CLS"):
        signals.cls_attention(-1)
