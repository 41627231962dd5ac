"""What makes pruning right whatever the weights: the full model, asked in another way, must say the same."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from visual.families import FAMILIES, IMAGE, model_of, padded, prompt

from ctxcomp import Budget, InputError
from ctxcomp.visual import METHODS, VisualPruner

every_family = pytest.mark.parametrize("name", sorted(FAMILIES))
MULTI = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"}


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def random_pruner(name, seed=0, **options):
    method = dataclasses.replace(METHODS["random"], scorer=dataclasses.replace(METHODS["random"].scorer, seed=seed))
    return VisualPruner(model=model_of(name), method=method, **options)


def hidden_columns(name, inputs, kept):
    """The full prompt's mask ``[1, 1, L, L]`` with the dropped tokens hidden from all but themselves."""
    ids = inputs["input_ids"][0]
    n = len(ids)
    seen = torch.ones(n, n).tril().bool()
    if name == "gemma3":
        images = ids == IMAGE
        block = (images & ~torch.roll(images, 1)).cumsum(0) * images
        seen |= (block[:, None] == block[None]) & (block[:, None] > 0)
    stays = torch.ones(n, dtype=torch.bool)
    stays[ids == IMAGE] = kept
    seen = (seen & stays[None]) | torch.eye(n, dtype=torch.bool)
    mask = torch.zeros(1, 1, n, n).masked_fill(~seen, torch.finfo(torch.float32).min)
    return stays, ({"full_attention": mask, "sliding_attention": mask} if name == "gemma3" else mask)


def full_with_hidden(name, inputs, pruned):
    kept = torch.zeros(len(pruned.encoded.features), dtype=torch.bool)
    kept[pruned.kept] = True
    stays, mask = hidden_columns(name, inputs, kept)
    given = {**inputs, "attention_mask": mask}
    if name in MULTI:
        places = pruned.adapter.positions(inputs)
        given["position_ids"] = torch.cat([torch.arange(places.shape[-1]).expand(1, 1, -1), places])
    return model_of(name)(**given).logits[:, stays]


@every_family
def test_keeping_all_changes_no_bit(name):
    inputs, layout = prompt(name)
    pruned = random_pruner(name).prune(inputs, Budget(keep=1.0), **layout)
    assert torch.equal(model_of(name)(**pruned.model_inputs()).logits, model_of(name)(**inputs).logits)


@every_family
@pytest.mark.parametrize("seed", range(3))
def test_what_is_dropped_might_as_well_be_hidden(name, seed):
    inputs, layout = prompt(name, seed)
    pruned = random_pruner(name, seed).prune(inputs, Budget(keep=(0.2, 0.5, 0.8)[seed]), **layout)
    assert len(pruned.kept) < len(pruned.encoded.features)
    logits = model_of(name)(**pruned.model_inputs()).logits
    torch.testing.assert_close(logits, full_with_hidden(name, inputs, pruned), atol=1e-5, rtol=0)


@every_family
def test_the_oracle_tells_a_wrong_position(name):
    """The comparison above fails where it should: closing the gaps moves what the model says."""
    inputs, layout = prompt(name)
    pruned = random_pruner(name, positions="contiguous").prune(inputs, Budget(keep=0.4), **layout)
    logits = model_of(name)(**pruned.model_inputs()).logits
    assert (logits - full_with_hidden(name, inputs, pruned)).abs().max() > 1e-3


@every_family
@pytest.mark.parametrize("positions", ["original", "contiguous"])
def test_generate_equals_a_greedy_loop(name, positions):
    inputs, layout = prompt(name, 1)
    pruned = random_pruner(name, 1, positions=positions).prune(inputs, Budget(keep=0.5), **layout)
    written = pruned.generate(max_new_tokens=5, do_sample=False)
    given = pruned.model_inputs() | {"use_cache": False}
    start = given["input_ids"].shape[1]
    for step in range(5):
        token = model_of(name)(**given).logits[:, -1].argmax(-1)
        assert written[0, start + step] == token
        given = pruned.model_inputs() | {"use_cache": False} | longer(given, token)


def longer(given, token):
    """A prompt with one more token, a text one."""
    ends = {"input_ids": token[:, None], "attention_mask": torch.ones(1, 1, dtype=torch.long)}
    grown = {key: torch.cat([given[key], end], dim=1) for key, end in ends.items()}
    grown["position_ids"] = torch.cat([given["position_ids"], given["position_ids"][..., -1:] + 1], dim=-1)
    for key in ("token_type_ids", "mm_token_type_ids"):
        if key in given:
            grown[key] = torch.cat([given[key], torch.zeros(1, 1, dtype=torch.long)], dim=1)
    return grown


@every_family
def test_a_padded_batch_equals_its_singles(name):
    inputs, layout = padded(name)
    together = random_pruner(name).prune(inputs, Budget(keep=0.5), **layout)
    logits = model_of(name)(**together.model_inputs()).logits
    written = together.generate(max_new_tokens=4, do_sample=False)
    for i, seed in enumerate((0, 1)):
        single, own = prompt(name, seed)
        alone = random_pruner(name).prune(single, Budget(keep=0.5), **own)
        n = alone.inputs["input_ids"].shape[1]
        assert together.results[i].indices.tolist() == alone.results[0].indices.tolist()
        torch.testing.assert_close(
            logits[i : i + 1, -n:], model_of(name)(**alone.model_inputs()).logits, atol=2e-5, rtol=0
        )
        assert written[i, -4:].tolist() == alone.generate(max_new_tokens=4, do_sample=False)[0, -4:].tolist()


@every_family
def test_text_is_untouched_and_in_order(name):
    inputs, layout = prompt(name, 2)
    pruned = random_pruner(name, 2).prune(inputs, Budget(keep=0.3), **layout)
    assert pruned.inputs["input_ids"][0][pruned.inputs["input_ids"][0] != IMAGE].tolist() == (
        inputs["input_ids"][0][inputs["input_ids"][0] != IMAGE].tolist()
    )
    assert int((pruned.inputs["input_ids"] == IMAGE).sum()) == pruned.results[0].stats.tokens_out
    assert torch.equal(pruned.features, pruned.encoded.features[pruned.kept])


ONE_DIMENSIONAL = sorted(set(FAMILIES) - MULTI)


@pytest.mark.parametrize("name", ONE_DIMENSIONAL)
def test_the_packed_sequence_trap_raises(name):
    """Gapped positions without a cache: transformers would answer wrongly and say nothing."""
    inputs, layout = prompt(name)
    pruned = random_pruner(name).prune(inputs, Budget(keep=0.4), **layout)
    with pytest.raises(InputError, match="packed"):
        pruned.generate(max_new_tokens=2, use_cache=False)
    with pytest.raises(TypeError, match="use_cache"):
        model_of(name).generate(**pruned.model_inputs(), max_new_tokens=2, use_cache=False)
    closed = random_pruner(name, positions="contiguous").prune(inputs, Budget(keep=0.4), **layout)
    assert closed.generate(max_new_tokens=2, use_cache=False, do_sample=False).shape[1] == (
        closed.inputs["input_ids"].shape[1] + 2
    )


def test_the_trap_is_still_there():
    """The reason for the refusal above; if this fails transformers has closed it and the refusal can go."""
    inputs, layout = prompt("llava_next")
    pruned = random_pruner("llava_next").prune(inputs, Budget(keep=0.4), **layout)
    given = pruned.model_inputs()
    right = model_of("llava_next")(**given).logits
    wrong = model_of("llava_next")(**pruned.model_inputs() | {"attention_mask": None, "use_cache": False}).logits
    assert (right - wrong).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["llava_next", "qwen3_vl", "mistral3"])
def test_beams(name):
    inputs, layout = prompt(name)
    pruned = random_pruner(name).prune(inputs, Budget(keep=0.5), **layout)
    first = pruned.generate(max_new_tokens=3, num_beams=2, do_sample=False)
    again = pruned.generate(max_new_tokens=3, num_beams=2, do_sample=False)
    assert first.tolist() == again.tolist()
