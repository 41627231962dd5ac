"""EMS: merging is nearer to the full attention than dropping where keys are alike, and drops where they are not."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from ctxcomp.generate.cache.ems import EMS
from ctxcomp.generate.cache.evictor import LayerView, choose

SEEN, SIZE, KINDS = 200, 16, 20


def structured(noise, seed=0):
    """Keys of a few kinds, each many times with values of their own, and queries that look for some kinds."""
    g = torch.Generator().manual_seed(seed)
    kinds = 4 * normalize(torch.randn(1, 2, KINDS, SIZE, generator=g), dim=-1)
    which = torch.randint(KINDS, (SEEN,), generator=g)
    keys = kinds[:, :, which] + noise * torch.randn(1, 2, SEEN, SIZE, generator=g)
    centre = torch.randn(1, 2, KINDS, SIZE, generator=g)
    values = centre[:, :, which] + torch.randn(1, 2, SEEN, SIZE, generator=g)
    asked = torch.randint(KINDS, (64,), generator=g)
    queries = kinds[:, :, asked].repeat_interleave(2, 1) + 0.3 * torch.randn(1, 4, 64, SIZE, generator=g)
    positions = torch.arange(SEEN)[None, None]
    view = LayerView(SimpleNamespace(), keys, values, queries, positions, None, SEEN, SIZE**-0.5)
    return view, queries[:, :, -32:]


def attend(queries, keys, values):
    keys, values = keys.repeat_interleave(2, 1), values.repeat_interleave(2, 1)
    return (queries @ keys.transpose(-1, -2) * SIZE**-0.5).softmax(-1) @ values


def errors(view, queries, method):
    """Mean squared error of the attention's output with dropping and with merging."""
    method.observe(view)
    kept = choose(method, view)
    full = attend(queries, view.keys, view.values)
    index = kept[..., None].expand(-1, -1, -1, SIZE)
    dropped = attend(queries, view.keys.gather(2, index), view.values.gather(2, index))
    return [float((out - full).square().mean()) for out in (dropped, attend(queries, *method.merge(view, kept)))]


@pytest.mark.parametrize("seed", range(4))
def test_merging_is_nearer_to_the_full_attention_than_dropping(seed):
    view, queries = structured(0.3, seed)
    dropping, merging = errors(view, queries, EMS(keep=0.25, recent=8, similarity=0.8))
    assert merging < 0.8 * dropping


def test_keys_unlike_all_others_are_dropped():
    view, queries = structured(0.3)
    view.keys = torch.randn(view.keys.shape, generator=torch.Generator().manual_seed(9))
    dropping, merging = errors(view, queries, EMS(keep=0.25, recent=8, similarity=0.999))
    assert merging == pytest.approx(dropping, rel=1e-6)


def test_a_class_becomes_the_mean_weighted_by_score():
    keys = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1.1]])[None, None]
    values = torch.arange(12.0).view(1, 1, 4, 3)
    view = LayerView(SimpleNamespace(), keys, values, keys, torch.arange(4)[None, None], None, 4, 1.0)
    method = EMS(tokens=3, sinks=1, recent=0, kernel=1, similarity=0.9)
    method.observe(view)
    score = method.score(view)[0, 0]
    merged_keys, merged_values = method.merge(view, torch.tensor([[[0, 1, 2]]]))
    weight = score[2:] / score[2:].sum()
    torch.testing.assert_close(merged_values[0, 0, 2], weight @ values[0, 0, 2:])
    torch.testing.assert_close(merged_keys[0, 0, 2], weight @ keys[0, 0, 2:])
    assert torch.equal(merged_values[0, 0, :2], values[0, 0, :2])


def test_sinks_take_nothing_in():
    keys = torch.tensor([[1.0, 0.1], [0, 1], [1, 0]])[None, None]
    view = LayerView(SimpleNamespace(), keys, keys, keys, torch.arange(3)[None, None], None, 3, 1.0)
    method = EMS(tokens=2, sinks=1, recent=0, kernel=1, similarity=0.5)
    method.observe(view)
    merged, _ = method.merge(view, torch.tensor([[[0, 1]]]))
    assert torch.equal(merged, keys[:, :, :2])
