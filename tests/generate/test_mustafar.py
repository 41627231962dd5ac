"""Mustafar: what is kept is exact, what is held is as small as predicted."""

import pytest
import torch
from generate.models import random_ids, tiny_llama
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxcomp.errors import InputError
from ctxcomp.generate.cache import CompressedCache, install
from ctxcomp.generate.cache.mustafar import Mustafar


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def pruned(x, keep):
    """The slow way: vector by vector, all but the largest magnitudes zero."""
    out = torch.zeros_like(x)
    count = max(1, round(keep * x.shape[-1]))
    for source, target in zip(x.flatten(0, -2), out.view(-1, x.shape[-1]), strict=True):
        largest = sorted(range(len(source)), key=lambda i: (-abs(float(source[i])), i))[:count]
        target[largest] = source[largest]
    return out


@settings(max_examples=20)
@given(d=st.sampled_from([16, 63, 64, 96, 128]), keep=st.floats(0.05, 1), rows=st.integers(1, 3))
def test_kept_entries_come_back_exactly(d, keep, rows):
    keys, values = random(rows, 2, 5, d), random(rows, 2, 5, d, seed=1)
    codec = Mustafar(keep=keep)
    for found, x in zip(codec.decode(codec.encode(keys, values)), (keys, values), strict=True):
        assert torch.equal(found, pruned(x, keep))


@pytest.mark.parametrize("d", [64, 128])
def test_joining_and_cutting_change_nothing(d):
    codec = Mustafar(keep=0.4, block=4)
    keys, values = random(3, 2, 20, d, dtype=torch.bfloat16), random(3, 2, 20, d, seed=1, dtype=torch.bfloat16)
    whole = codec.encode(keys, values)
    parts = codec.join(codec.encode(keys[:, :, :8], values[:, :, :8]), codec.encode(keys[:, :, 8:], values[:, :, 8:]))
    assert parts.tokens == 20
    assert all(torch.equal(parts.tensors[name], t) for name, t in whole.tensors.items())
    middle = codec.decode(codec.narrow(whole, 4, 12))
    assert all(torch.equal(a, b[:, :, 4:12]) for a, b in zip(middle, codec.decode(whole), strict=True))
    chosen = codec.decode(whole.select(torch.tensor([2, 0])))
    assert all(torch.equal(a, b[[2, 0]]) for a, b in zip(chosen, codec.decode(whole), strict=True))


@pytest.mark.parametrize(("keep", "share"), [(0.5, 0.5625), (0.3, 0.4375)])
def test_bytes_are_a_bit_an_entry_and_the_entries(keep, share):
    x = random(2, 2, 64, 64, dtype=torch.bfloat16)
    codec = Mustafar(keep=keep)
    assert codec.nbytes(codec.encode(x, x)) == share * 2 * x.numel() * 2


def test_a_cache_decodes_and_crops():
    model, ids = tiny_llama(), random_ids(2, 110)
    install(model)
    full, sparse, exact = (CompressedCache(model.config, p) for p in ("none", "mustafar(keep=0.5)", "mustafar(keep=1)"))
    with torch.no_grad():
        for cache in (full, sparse, exact):
            model(ids[:, :100], past_key_values=cache)
            for t in range(100, 110):
                out = model(ids[:, t : t + 1], past_key_values=cache).logits
            if cache is full:
                expected = out
            elif cache is exact:
                torch.testing.assert_close(out, expected)
    keys, values = sparse.layers[0].dense()
    torch.testing.assert_close(keys[:, :, :64], pruned(full.layers[0].dense()[0][:, :, :64], 0.5))
    sparse.crop(-20)
    again = sparse.layers[0].dense()
    assert torch.equal(again[0], keys[:, :, :90])
    assert torch.equal(again[1], values[:, :, :90])


@pytest.mark.parametrize("fields", [{"keep": 0.0}, {"keep": 1.5}, {"block": 0}, {"residual": -1}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(InputError, match=next(iter(fields))):
        Mustafar(**fields)
