"""Demote: ranks decide precision, everything comes back in its place, and at equal bytes it beats eviction."""

import math

import pytest
import torch
from generate.models import random_ids, tiny_llama
from generate.views import layer_views, left_padding

from ctxcomp.errors import InputError
from ctxcomp.generate.cache import CompressedCache, install
from ctxcomp.generate.cache.demote import Demote
from ctxcomp.generate.cache.evictor import choose
from ctxcomp.generate.cache.snapkv import SnapKV


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [4, 100, 256])
@pytest.mark.parametrize(("high", "low"), [(0.25, 0.25), (0.0, 1.0), (1.0, 0.0), (0.1, 0.0)])
def test_precision_follows_rank(n, high, low):
    codec = Demote(high=high, low=low, group=16)
    keys, values, saliency = random(2, 3, n, 32), random(2, 3, n, 32, seed=1), random(2, 3, n, seed=2)
    block = codec.encode(keys, values, saliency)
    rank = saliency.argsort(-1, descending=True).argsort(-1)
    first, last = round(high * n), min(n - round(high * n), round(low * n))
    for found, x in zip(codec.decode(block), (keys, values), strict=True):
        error = (found - x).abs().amax(-1)
        assert (error[rank < first] == 0).all()
        middle, end = (rank >= first) & (rank < n - last), rank >= n - last
        assert (error[middle] < 0.5).all()
        assert (error[end] < 1.5).all()
        if n == 256 and middle.any() and end.any():
            assert 0.05 < error[middle].mean() < 0.4 < error[end].mean()


def test_each_level_is_quantized_as_by_itself():
    codec = Demote(high=0.0, low=0.0, group=8)
    keys = random(1, 1, 20, 16)
    decoded = codec.decode(codec.encode(keys, keys, torch.zeros(1, 1, 20)))
    for start in (0, 8, 16):
        part = keys[0, 0, start : start + 8]
        step = (part.amax(0) - part.amin(0)) / 15
        assert ((decoded[0][0, 0, start : start + 8] - part).abs() <= step / 2 + 2e-3).all()
    step = (keys.unflatten(-1, (2, 8)).amax(-1) - keys.unflatten(-1, (2, 8)).amin(-1)) / 15
    assert ((decoded[1] - keys).abs().unflatten(-1, (2, 8)) <= step[..., None] / 2 + 2e-3).all()


def test_bytes_are_those_of_the_levels():
    codec, x = Demote(high=0.125, low=0.5, group=32), random(2, 2, 256, 64).bfloat16()
    keys = 32 * 16 + 96 * 4 + 128 * 2 + (3 + 4) * 32  # bits of a channel: entries, then a scale and a minimum a group
    values = 32 * 16 + 96 * 4 + 128 * 2 + (96 + 128) / 32 * 32
    levels = 256 * 2 / 64
    assert codec.nbytes(codec.encode(x, x, random(2, 2, 256))) == 2 * 2 * 64 * (keys + values + levels) / 8


def bfloat_bytes(method, view, kept=None):
    n = view.keys.shape[2] if kept is None else kept
    keys, values = view.keys[:, :, :n].bfloat16(), view.values[:, :, :n].bfloat16()
    if isinstance(method, Demote):
        return method.nbytes(method.encode(keys, values, torch.zeros(keys.shape[:3])))
    return 2 * keys.numel() * 2


def output_error(view, keys, values, kept):
    """Relative squared error of the last queries' attention output over what is held instead of everything."""
    rows = view.queries[:, :, -16:]
    full = attend(rows, view.keys, view.values, view.scaling)
    return float((attend(rows, keys, values, view.scaling, kept) - full).square().sum() / full.square().sum())


def attend(q, keys, values, scaling, kept=None):
    groups = q.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    scores = q @ keys.transpose(-1, -2) * scaling
    at = torch.arange(240 - 16, 240)[:, None]
    slots = torch.arange(keys.shape[2]) if kept is None else kept.repeat_interleave(groups, 1)[:, :, None]
    return scores.masked_fill(slots > at, -torch.inf).softmax(-1) @ values


def test_at_equal_bytes_less_error_than_eviction():
    view = layer_views(tiny_llama(head_dim=32), random_ids(1, 240))[1]
    for keep in (0.2, 0.25, 0.3):
        evict = SnapKV(keep=keep, recent=8)
        demote = Demote(keep=1.0, high=0.0, group=32, low=min(1.0, (5.1 - 16 * keep) / 2), recent=8)
        kept = choose(evict, view)
        assert bfloat_bytes(demote, view) <= bfloat_bytes(evict, view, math.ceil(keep * 240)) * 1.02
        keys, values = demote.decode(demote.encode(view.keys, view.values, demote.saliency(view)))
        everything = torch.arange(240).expand(1, 2, 240)
        assert output_error(view, keys, values, everything) < 0.5 * output_error(view, *evict.merge(view, kept), kept)


def test_a_prompt_is_demoted_then_dropped_in_decoding():
    model, ids = tiny_llama(), random_ids(1, 240)
    install(model)
    cache = CompressedCache(model.config, "demote(tokens=100,high=0.1,low=0.5,interval=32,residual=16,recent=16)")
    with torch.no_grad():
        model(ids[:, :120], past_key_values=cache)
        assert cache.physical_length() == 100
        first = body_bytes(cache)
        for t in range(120, 240):
            model(ids[:, t : t + 1], past_key_values=cache)
            assert cache.physical_length() <= 100 + 32 + 1
    dense = 64 * 2 * 2 * 2 * 16 * 4
    assert 0.15 * dense < first < 0.3 * dense
    assert body_bytes(cache) < 2 * first
    assert cache.get_seq_length() == 240


def body_bytes(cache):
    return sum(layer.codec.nbytes(block) for layer in cache.layers for block in layer.body)


def test_rows_with_padding_decode_as_they_do_alone():
    model, padding = tiny_llama(), left_padding([100, 100])
    install(model)
    ids = random_ids(2, 100)
    ids[1, :30], padding[1, :30] = 0, 0
    outs = []
    for rows, start in ((slice(0, 2), 0), (slice(1, 2), 30)):
        cache = CompressedCache(model.config, "demote(high=1.0,low=0.0)")
        positions = padding[rows, start:].cumsum(-1).sub(1).clamp(min=0)
        with torch.no_grad():
            model(
                ids[rows, start:99],
                attention_mask=padding[rows, start:99],
                position_ids=positions[:, :-1],
                past_key_values=cache,
            )
            out = model(
                ids[rows, 99:],
                attention_mask=padding[rows, start:],
                position_ids=positions[:, -1:],
                past_key_values=cache,
            )
        outs.append(out.logits[-1])
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-4, atol=1e-5)


def test_padding_and_sinks_in_the_saliency():
    view = layer_views(tiny_llama(), random_ids(1, 96), left_padding([96]))[0]
    view.padding = torch.ones(1, 96, dtype=torch.bool)
    view.padding[0, :10] = False
    saliency = Demote(sinks=3).saliency(view)
    assert torch.isneginf(saliency[..., :10]).all()
    assert torch.isposinf(saliency[..., 10:13]).all()
    assert torch.isfinite(saliency[..., 13:]).all()


@pytest.mark.parametrize("by", ["h2o", "scissorhands", "expected_attention", "knorm", "random", "streaming", "ems"])
def test_any_evictor_may_rank(by):
    model = tiny_llama()
    install(model)
    cache = CompressedCache(model.config, f"demote(by={by},high=0.1,low=0.3,keep=0.8)")
    with torch.no_grad():
        model(random_ids(1, 100), past_key_values=cache)
        model(random_ids(1, 1), past_key_values=cache)
    assert cache.physical_length() == 81


@pytest.mark.parametrize(
    "fields", [{"high": -0.1}, {"high": 0.7, "low": 0.7}, {"block": 6}, {"by": "kivi4"}, {"by": "demote"}, {"group": 0}]
)
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(InputError, match=next(iter(fields))):
        Demote(**fields)
