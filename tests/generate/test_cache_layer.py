"""The layer's bookkeeping: lengths, cropping, rows, bytes, state; attention over what is held."""

import copy
import gc

import pytest
import torch
from generate.models import random_ids, tiny_llama

from ctxcomp.errors import CacheError, InputError
from ctxcomp.generate.cache import CompressedCache, install
from ctxcomp.generate.cache.layer import CompressedLayer

POLICIES = [
    "none",
    "int8",
    "kivi4",
    "zipcache",
    "gear",
    "snapkv(keep=0.4)",
    "h2o(tokens=60)+kivi4",
    "knorm(keep=0.5)+zipcache",
]


@pytest.fixture(scope="module")
def model():
    model = tiny_llama(num_hidden_layers=1)
    install(model)
    return model


def feed(model, cache, ids, step=1, **kwargs):
    """Logits of the ids, ``step`` at a time."""
    with torch.no_grad():
        parts = [model(part, past_key_values=cache, **kwargs).logits for part in ids.split(step, dim=1)]
    return torch.cat(parts, 1)


def filled(model, policy, tokens=150, rows=1):
    cache = CompressedCache(model.config, policy)
    feed(model, cache, random_ids(rows, tokens), step=tokens)
    return cache


@pytest.mark.parametrize("policy", POLICIES)
def test_lengths_and_bytes(model, policy):
    cache = filled(model, policy)
    whole = filled(model, "none")
    assert cache.get_seq_length() == 150
    assert whole.nbytes() == 2 * 150 * 2 * 16 * 4  # keys and values, tokens, heads, channels, float32
    share = {"snapkv(keep=0.4)": 60, "h2o(tokens=60)+kivi4": 60, "knorm(keep=0.5)+zipcache": 75}.get(policy, 150) / 150
    assert cache.physical_length() == round(share * 150)
    if policy != "none":
        assert cache.nbytes() < whole.nbytes()


@pytest.mark.parametrize("policy", POLICIES)
def test_bytes_are_those_of_every_tensor_that_can_be_reached(model, policy):
    cache = filled(model, policy)
    feed(model, cache, random_ids(1, 3))
    found, seen, todo = {}, set(), [cache]
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, (type, type(gc))) or item is model.config or callable(item):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            found[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
        else:
            todo += gc.get_referents(item)
    assert sum(found.values()) == cache.nbytes()


@pytest.mark.parametrize("policy", POLICIES)
def test_crop_then_continue_is_never_having_seen(model, policy):
    ids, wrong = random_ids(1, 60), random_ids(1, 12, seed=9)
    plain, drafted = filled(model, policy), filled(model, policy)
    expected, found, at = feed(model, plain, ids), [], 0
    while at < 60:
        room = drafted.room()
        assert room >= 1
        feed(model, drafted, wrong, step=12)
        drafted.crop(-12)
        assert drafted.get_seq_length() == 150 + at
        found.append(feed(model, drafted, ids[:, at : at + room], step=room))
        at += room
    torch.testing.assert_close(torch.cat(found, 1), expected, rtol=1e-4, atol=1e-4)
    assert drafted.physical_length() == plain.physical_length()


@pytest.mark.parametrize("policy", ["int8", "kivi4", "zipcache"])
@pytest.mark.parametrize("left", [140, 100, 64, 3])
def test_crop_into_the_body_keeps_what_was_decoded(model, policy, left):
    cache = filled(model, policy)
    keys, values = cache.layers[0].dense()
    cache.crop(left - 150)
    found = cache.layers[0].dense()
    assert cache.get_seq_length() == cache.physical_length() == left
    torch.testing.assert_close(found[0], keys[:, :, :left])
    torch.testing.assert_close(found[1], values[:, :, :left])
    feed(model, cache, random_ids(1, 2))
    assert cache.get_seq_length() == left + 2


def test_crop_of_everything_and_reset(model):
    for forget in (lambda cache: cache.crop(-150), lambda cache: cache.reset()):
        cache = filled(model, "snapkv(keep=0.4)+kivi4")
        forget(cache)
        assert cache.get_seq_length() == cache.physical_length() == cache.nbytes() == 0
        again = feed(model, cache, random_ids(1, 150), step=150)
        assert torch.equal(again, feed(model, CompressedCache(model.config, "none"), random_ids(1, 150), step=150))
    with pytest.raises(InputError, match="<= 0"):
        cache.crop(3)


def test_crop_to_before_an_eviction_hides_what_is_gone(model):
    cache = filled(model, "random(keep=0.4,recent=4)")
    layer = cache.layers[0]
    held = {head: layer.positions[0, head].tolist() for head in range(2)}
    cache.crop(-90)
    found = {head: [p for p in layer.slot_positions()[0, head].tolist() if p < 60] for head in range(2)}
    assert found == {head: [p for p in held[head] if p < 60] for head in range(2)}
    assert len(found[0]) != len(found[1])  # else this shows nothing
    assert cache.physical_length() == max(len(p) for p in found.values())
    assert feed(model, cache, random_ids(1, 5)).isfinite().all()


@pytest.mark.parametrize("policy", POLICIES)
def test_rows_are_selected_repeated_and_reordered(model, policy):
    cache = filled(model, policy, rows=3)
    dense = cache.layers[0].dense()
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([True, False, False, True, True, True]))
    for found, before in zip(cache.layers[0].dense(), dense, strict=True):
        torch.testing.assert_close(found, before[[2, 0, 0, 0]])
    assert cache.batch_size == 4
    feed(model, cache, random_ids(4, 2))


@pytest.mark.parametrize("policy", POLICIES)
def test_state_goes_around(model, policy):
    cache = filled(model, policy)
    feed(model, cache, random_ids(1, 3))
    state = copy.deepcopy(cache.state_dict())
    other = CompressedCache.from_state(model.config, policy, state)
    assert other.get_seq_length() == 153
    more = random_ids(1, 4, seed=3)
    assert torch.equal(feed(model, cache, more), feed(model, other, more))
    with pytest.raises(CacheError, match="2 layers"):
        CompressedCache.from_state(model.config, policy, state * 2)


def test_a_copy_of_a_cache_is_its_own(model):
    cache = filled(model, "snapkv(keep=0.4)+kivi4")
    twin = copy.deepcopy(cache)
    first, second = feed(model, cache, random_ids(1, 90)), feed(model, twin, random_ids(1, 90))
    assert torch.equal(first, second)
    assert cache.layers[0].keys.data_ptr() != twin.layers[0].keys.data_ptr()


@pytest.mark.parametrize(
    "policy", ["kivi4", "kivi2", "int8", "zipcache", "snapkv(keep=0.7)+kivi4", "random(keep=0.7)+zipcache"]
)
@pytest.mark.parametrize("padded", [False, True])
def test_the_kernel_path_equals_the_dense_one(model, policy, padded, monkeypatch):
    mask = torch.ones(2, 170, dtype=torch.long)
    if padded:
        mask[0, :40] = 0
    ids = random_ids(2, 170)

    def run():
        cache = CompressedCache(model.config, policy)
        feed(model, cache, ids[:, :150], step=150, attention_mask=mask[:, :150])
        parts = [
            feed(model, cache, ids[:, a:b], step=b - a, attention_mask=mask[:, :b]) for a, b in ((150, 151), (151, 162))
        ]
        cache.crop(-3)
        return torch.cat([*parts, feed(model, cache, ids[:, 159:165], step=6, attention_mask=mask[:, :165])], 1)

    dense, calls = run(), []
    monkeypatch.setattr(CompressedLayer, "_has_kernel", lambda layer, new: bool(layer.body) and new <= 16)
    attend = CompressedLayer.attend
    monkeypatch.setattr(CompressedLayer, "attend", lambda *args: calls.append(1) or attend(*args))
    torch.testing.assert_close(run(), dense, rtol=1e-3, atol=2e-3)
    assert len(calls) == 3


def test_eviction_needs_our_attention():
    model = tiny_llama()
    with pytest.raises(InputError, match=r"SnapKV needs the attention 'ctxcomp'.*install\(model\)"):
        feed(model, CompressedCache(model.config, "snapkv(keep=0.5)"), random_ids(1, 9), step=9)
    with pytest.raises(InputError, match="ZipCache needs"):
        feed(model, CompressedCache(model.config, "zipcache"), random_ids(1, 9), step=9)


def test_lost_tensors_are_noticed(model):
    layer = CompressedCache(model.config, "snapkv(keep=0.5)").layers[0]
    states = torch.randn(1, 2, 3, 16)
    layer.update(states, states)
    with pytest.raises(InputError, match="does not hand on"):
        layer.update(states, states)


def test_a_short_mask_is_refused(model):
    cache = filled(model, "snapkv(keep=0.4)")
    with pytest.raises(InputError, match="covers 2 tokens, and 151 were seen"):
        model(random_ids(1, 1), attention_mask=torch.tensor([[0, 1]]), past_key_values=cache)
