"""Calibration windows, the walk through the blocks, and the statistics of each layer's inputs."""

import pytest
import torch
from generate import models
from torch import nn

from ctxcomp import Passage
from ctxcomp.errors import InputError, ModelError
from ctxcomp.generate.weights.calibration import token_windows, walk
from ctxcomp.generate.weights.statistics import SAMPLE_TOKENS, LayerStatistics


def letters(text, **_):
    return {"input_ids": [ord(c) for c in text]}


def test_documents_are_cut_into_windows_spread_over_all_of_them():
    windows = token_windows(["abcd", Passage("efghij"), "k"], letters, samples=9, tokens=3)
    assert windows.tolist() == [[ord(c) for c in w] for w in ("abc", "def", "ghi")]
    picked = token_windows(["".join(map(chr, range(100, 200)))], letters, samples=3, tokens=10)
    assert picked[:, 0].tolist() == [100, 140, 190]
    assert token_windows(["abcd"], letters, tokens=512).shape == (1, 4)


def test_token_ids_are_taken_as_they_are():
    ids = models.random_ids(5, 7)
    assert torch.equal(token_windows(ids, samples=3), ids[:3])


@pytest.mark.parametrize(
    ("texts", "tokenizer", "says"),
    [
        ([], letters, "not empty"),
        ("abc", letters, "list of texts"),
        (["abc"], None, "tokenizer"),
        (["a"], letters, "1 tokens"),
        (torch.zeros(2, 3), None, "whole numbers"),
        (torch.zeros(3, dtype=torch.long), None, "whole numbers"),
    ],
)
def test_what_cannot_calibrate_is_refused(texts, tokenizer, says):
    with pytest.raises(InputError, match=says):
        token_windows(texts, tokenizer)


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gemma2", "tiny_gpt2", "tiny_gpt_neox"])
def test_blocks_get_the_hidden_states_that_the_model_gives_them(name):
    model, ids = getattr(models, name)(), models.random_ids(3, 24)
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
    for i, block in enumerate(walk(model, ids)):
        assert len(block.inputs) == 3
        assert torch.allclose(torch.cat(block.inputs), states[i], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("follow", [True, False])
def test_later_blocks_see_what_was_changed_before_them_if_they_follow(follow):
    model, ids = models.tiny_llama(), models.random_ids(2, 16)
    states = [model(ids, output_hidden_states=True).hidden_states[1]]
    for i, block in enumerate(walk(model, ids, follow=follow)):
        if i == 0:
            block.module.mlp.down_proj.weight.data.mul_(3)
            states.append(model(ids, output_hidden_states=True).hidden_states[1])
        else:
            assert torch.allclose(torch.cat(block.inputs), states[follow], atol=1e-5)


@torch.no_grad()
def test_statistics_are_those_of_each_layers_inputs():
    model, ids = models.tiny_llama(num_hidden_layers=1), models.random_ids(20, 32)
    block = next(walk(model, ids))
    found = block.statistics(hessian=True)
    seen = []
    block.module.mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, -2)))
    model(ids)
    x, own = seen[0], found["mlp.down_proj"]
    assert own.tokens == 640
    assert own.layer == "mlp.down_proj"
    assert torch.allclose(own.mean_abs, x.abs().mean(0), rtol=1e-4)
    assert torch.allclose(own.max_abs, x.abs().amax(0), rtol=1e-4)
    assert torch.allclose(own.hessian, 2 / 640 * x.T @ x, rtol=1e-3, atol=1e-5)
    assert own.sample.shape == (SAMPLE_TOKENS, 96)
    assert torch.allclose(own.sample, x[:SAMPLE_TOKENS], atol=1e-5)
    assert found["self_attn.q_proj"].hessian is found["self_attn.v_proj"].hessian
    assert found["self_attn.q_proj"].hessian is not found["self_attn.o_proj"].hessian
    assert not block.statistics()["mlp.down_proj"].hessian.any()


def test_samples_are_spread_over_all_tokens():
    x = torch.arange(4000.0)[:, None].expand(4000, 2)
    sample = LayerStatistics.of(x).sample
    assert len(sample) == SAMPLE_TOKENS
    assert sample[-1, 0] > 3500


def test_without_tokens_there_are_empty_statistics():
    block = next(walk(models.tiny_llama(), None))
    own = block.statistics(hessian=True)["mlp.down_proj"]
    assert own.tokens == 0
    assert own.hessian.shape == (96, 96)


def test_models_without_decoder_blocks_are_refused():
    with pytest.raises(ModelError, match="decoder blocks"):
        next(walk(nn.Sequential(nn.Linear(4, 4)), None))


def test_blocks_that_read_the_tokens_themselves_are_refused():
    model = models.tiny_llama()
    layers = model.model.layers

    def forward(hidden_states, extra=None, inner=layers[0].forward, **kwargs):
        return inner(hidden_states, **kwargs)

    layers[0].forward = forward
    layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: (args, kwargs | {"extra": args[0].sum()}), with_kwargs=True
    )
    with pytest.raises(ModelError, match="each token"):
        next(walk(model, models.random_ids(2, 8)))
