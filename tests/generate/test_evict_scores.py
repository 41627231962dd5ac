"""Every score against a slow one, worked out from what transformers' eager attention says."""

import copy
import functools
import math

import pytest
import torch
from generate.models import random_ids, tiny_gpt2, tiny_gpt_neox, tiny_llama, tiny_mistral, tiny_qwen3
from generate.views import layer_views, left_padding, probabilities

from ctxcomp.errors import InputError
from ctxcomp.generate.cache.ems import EMS
from ctxcomp.generate.cache.evictor import choose
from ctxcomp.generate.cache.expected_attention import ExpectedAttention
from ctxcomp.generate.cache.h2o import H2O
from ctxcomp.generate.cache.knorm import KNorm
from ctxcomp.generate.cache.random import Random
from ctxcomp.generate.cache.scissorhands import Scissorhands
from ctxcomp.generate.cache.snapkv import SnapKV
from ctxcomp.generate.cache.streaming import Streaming

LENGTHS = [96, 70]
MODELS = {"llama": tiny_llama, "qwen3": tiny_qwen3, "mistral": tiny_mistral, "neox": tiny_gpt_neox}


@functools.cache
def case(kind="llama"):
    """Views, true probabilities, the number of padding tokens of each row, the model."""
    model = MODELS[kind]()
    padding = left_padding(LENGTHS)
    ids = random_ids(2, 96) * padding
    return layer_views(model, ids, padding), probabilities(model, ids, padding), [96 - n for n in LENGTHS], model


def each(views, truths, pads):
    """Layer, row, key-value head, its first token and the probabilities of its query heads ``[g, n, n]``."""
    for view, truth in zip(views, truths, strict=True):
        for row, pad in enumerate(pads):
            for head in range(view.keys.shape[1]):
                group = truth[row, head * view.groups : (head + 1) * view.groups]
                yield view, row, head, pad, group


def close(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=torch.float32), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", MODELS)
def test_snapkv_is_the_smoothed_attention_of_the_last_queries(kind):
    views, truths, pads, _ = case(kind)
    for view, row, head, pad, group in each(views, truths, pads):
        found = SnapKV(keep=0.5, window=16, kernel=3).score(view)[row, head]
        raw = [float(group[:, -16:, i].mean()) for i in range(96)]
        expected = [(sum(raw[max(0, i - 1) : i + 2])) / 3 for i in range(96)]
        close(found[pad:], expected[pad:])


def test_h2o_sums_all_attention_and_keeps_a_recent_share():
    views, truths, pads, _ = case()
    method = H2O(keep=0.5, share=0.5)
    for view in views:
        view.state.clear()
        method.observe(view)
    for view, row, head, pad, group in each(views, truths, pads):
        found, length = method.score(view)[row, head], 96 - pad
        recent = math.ceil(0.5 * length) // 2
        expected = torch.stack([group[:, :, i].mean(0).sum() for i in range(96)])
        close(found[pad : 96 - recent], expected[pad : 96 - recent])
        assert torch.equal(torch.isinf(found), torch.arange(96) >= 96 - recent)


def test_scissorhands_counts_more_than_an_even_share():
    views, truths, pads, _ = case()
    for view, row, head, pad, group in each(views, truths, pads):
        found = Scissorhands(keep=0.5, window=20).score(view)[row, head]
        for i in range(pad, 96):
            shares = [float(group[:, q, i].mean()) for q in range(76, 96)]
            counted = sum(s > 1 / (q - pad + 1) for s, q in zip(shares, range(76, 96), strict=True))
            assert float(found[i]) == pytest.approx(counted + sum(shares) / 20, abs=1e-5)


def test_ems_adds_global_and_local_attention():
    views, truths, pads, _ = case()
    method = EMS(keep=0.5, window=16, kernel=1)
    for view in views:
        view.state.clear()
        method.observe(view)
    for view, row, head, pad, group in each(views, truths, pads):
        found = method.score(view)[row, head]
        mean = group.mean(0)
        expected = [float(mean[:, i].sum() / (96 - i) + mean[-16:, i].mean()) for i in range(96)]
        close(found[pad:], expected[pad:])


def test_knorm_and_streaming_go_by_norm_and_position():
    views, _, _, _ = case()
    for view in views:
        close(KNorm(keep=0.5).score(view), -view.keys.pow(2).sum(-1).sqrt())
        assert torch.equal(Streaming(keep=0.5).score(view), torch.arange(96.0).expand(2, 2, 96))


def test_random_draws_for_each_head_once():
    views, _, _, _ = case()
    first, second = Random(keep=0.5).score(views[0]), Random(keep=0.5).score(views[0])
    assert torch.equal(first, second)
    assert not torch.equal(first[:, 0], first[:, 1])
    assert not torch.equal(first, Random(keep=0.5).score(views[1]))
    assert not torch.equal(first, Random(keep=0.5, seed=1).score(views[0]))
    part = copy.copy(views[0])
    part.seen = 500  # later in the same text
    part.positions, part.keys = part.positions[..., 10:20], part.keys[:, :, 10:20]
    assert torch.equal(Random(keep=0.5).score(part), first[..., 10:20])


def raw_queries(model, ids, padding):
    """Queries before RoPE, ``[B, Hq, n, d]`` of the first layer, from its own projection."""
    caught = []
    attention = model.model.layers[0].self_attn if hasattr(model, "model") else model.gpt_neox.layers[0].attention
    hook = attention.register_forward_pre_hook(
        lambda _, args, kwargs: caught.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        model(ids, attention_mask=padding)
        hook.remove()
        hidden = caught[0]
        if hasattr(model, "model"):
            q = attention.q_proj(hidden).unflatten(-1, (4, -1))
            q = attention.q_norm(q) if hasattr(attention, "q_norm") else q
            return q.transpose(1, 2)
        return attention.query_key_value(hidden).unflatten(-1, (4, -1)).transpose(1, 2).chunk(3, dim=-1)[0]


@pytest.mark.parametrize("kind", MODELS)
def test_expected_attention_is_its_formula_on_queries_before_rope(kind):
    views, _, pads, model = case(kind)
    padding = left_padding(LENGTHS)
    view, method = views[0], ExpectedAttention(keep=0.5, future=9, epsilon=0.1, sinks=3)
    queries = raw_queries(model, random_ids(2, 96) * padding, padding)
    rotary = model.model.rotary_emb if hasattr(model, "model") else model.gpt_neox.rotary_emb
    size = view.keys.shape[-1]
    for row, pad in enumerate(pads):
        cos, sin = rotary(torch.zeros(1), torch.arange(96 - pad, 96 - pad + 9)[None])
        turn = torch.stack([rope_matrix(c, s, size) for c, s in zip(cos[0], sin[0], strict=True)]).mean(0)
        for head in range(view.keys.shape[1]):
            share = 0
            for q in queries[row, head * view.groups : (head + 1) * view.groups]:
                mine = q[pad + 3 :]
                mean, cov = mine.mean(0), torch.cov(mine.T, correction=0)
                mean, cov = turn @ mean, turn @ cov @ turn.T
                keys = view.keys[row, head, pad:]
                logits = [float(k @ mean * view.scaling + k @ cov @ k * view.scaling**2 / 2) for k in keys]
                share += torch.tensor(logits).softmax(0) / view.groups
            expected = (share + 0.1 / (96 - pad)) * view.values[row, head, pad:].norm(dim=-1)
            close(method.score(view)[row, head, pad:], expected)


def rope_matrix(cos, sin, size):
    """The rotation ``[d, d]`` that the two halves of the first dimensions undergo."""
    half = len(cos) // 2
    matrix = torch.eye(size)
    for i in range(half):
        matrix[i, i], matrix[i, i + half] = cos[i], -sin[i]
        matrix[i + half, i], matrix[i + half, i + half] = sin[i + half], cos[i + half]
    return matrix


def test_expected_attention_without_rope():
    model = tiny_gpt2()
    view = layer_views(model, random_ids(1, 80))[0]
    score = ExpectedAttention(keep=0.5, sinks=0, epsilon=0.0).score(view)[0, 1]
    q = view.queries[0, 1]
    mean, cov = q.mean(0), torch.cov(q.T, correction=0)
    logits = torch.stack([k @ mean * view.scaling + k @ cov @ k * view.scaling**2 / 2 for k in view.keys[0, 1]])
    close(score, logits.softmax(0) * view.values[0, 1].norm(dim=-1))


@pytest.mark.parametrize("method", [SnapKV, H2O, Scissorhands, ExpectedAttention, KNorm, EMS])
def test_a_padded_row_keeps_what_it_keeps_alone(method):
    model, padding = tiny_llama(), left_padding(LENGTHS)
    ids = random_ids(2, 96) * padding
    batch, alone = layer_views(model, ids, padding), layer_views(model, ids[1:, 26:])
    evictor = method(keep=0.4, recent=5)
    for one, other in zip(batch, alone, strict=True):
        for view in (one, other):
            view.state.clear()
            evictor.observe(view)
        kept = choose(evictor, one)[1]
        assert torch.equal(kept[kept >= 26].view(2, -1) - 26, choose(evictor, other)[0])


@pytest.mark.parametrize(
    ("method", "field"),
    [
        (SnapKV, {"window": 0}),
        (SnapKV, {"kernel": 4}),
        (H2O, {"share": 1.5}),
        (Scissorhands, {"window": 0}),
        (ExpectedAttention, {"future": 0}),
        (ExpectedAttention, {"epsilon": -1.0}),
        (EMS, {"similarity": 2.0}),
        (EMS, {"reach": 0.5}),
    ],
)
def test_fields_out_of_range_are_refused(method, field):
    with pytest.raises(InputError, match=next(iter(field))):
        method(keep=0.5, **field)
