import pytest
import torch
from ops import caches
from ops.caches import Case

from ctxcomp.errors import InputError
from ctxcomp_kernels import sparse_attention
from ctxcomp_kernels.testing import assert_close


def tokens(dtype=torch.float32, n=7, d=96, device="cpu"):
    x = torch.randn(2, 2, n, d, generator=torch.Generator().manual_seed(d)).to(device, dtype)
    x[0, 0, 0] = 1.0  # ties
    x[0, 1, 0] = 0.0
    return x


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("d", [64, 96, 100, 256])
def test_largest_magnitudes_stay_exactly(d, keep):
    x = tokens(d=d)
    sparse = sparse_attention.compress(x, keep, backend="reference")
    restored = sparse_attention.decompress(sparse)
    count = max(1, round(keep * d))
    stored = sparse.bitmap.unsqueeze(-1).bitwise_right_shift(torch.arange(64)).bitwise_and(1).flatten(-2)[..., :d]
    assert (stored.sum(-1) == count).all()
    assert torch.equal(restored, torch.where(stored == 1, x, 0))
    smallest_kept = torch.where(stored == 1, x.abs(), torch.inf).amin(-1)
    assert (torch.where(stored == 0, x.abs(), 0).amax(-1) <= smallest_kept).all()
    assert stored[0, 0, 0].tolist() == [1] * count + [0] * (d - count)  # of equals the first


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n", "d", "keep"), [(7, 96, 0.3), (20, 64, 0.5), (1, 128, 0.25)])
def test_kernel_equals_reference(n, d, keep, dtype, device, poison):
    x = tokens(dtype, n, d, device)
    expected = sparse_attention.compress(x, keep, backend="reference")
    actual = sparse_attention.compress(x, keep, backend="triton")
    for name in ("bitmap", "values", "offsets"):
        assert torch.equal(getattr(expected, name), getattr(actual, name)), name


def test_bytes():
    x = torch.randn(1, 4, 256, 128).bfloat16()
    share = sparse_attention.compress(x, 0.3, backend="reference").nbytes() / (2 * x.numel())
    assert 0.40 < share < 0.47  # the paper: 70 % sparse is 45 % of the size


def test_concatenate_and_empty():
    one, other = tokens(n=3), tokens(n=5)
    empty = sparse_attention.compress(one[:, :, :0], 0.5)
    parts = [sparse_attention.compress(x, 0.5, backend="reference") for x in (one, other)]
    joined = sparse_attention.concatenate([empty, *parts])
    assert joined.tokens == 8
    expected = torch.cat([sparse_attention.decompress(part) for part in parts], 2)
    assert torch.equal(sparse_attention.decompress(joined), expected)


CASES = [
    Case(B=2, H=2, Q=2, n=63, m=37, d=96, masked=True),
    Case(G=4, n=40, m=0, dtype=torch.float16),
    Case(n=33, m=1, d=256),
    Case(n=32, m=2, dtype=torch.bfloat16, d=128),
]
TOLERANCES = {torch.float32: 2e-6, torch.float16: 1.5e-3, torch.bfloat16: 8e-3}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_attention(backend, case, device, poison):
    q, (tail_k, tail_v) = caches.queries(case, device), caches.tail(case, device)
    shape = (case.B, case.H, case.n, case.d)
    keys, values = (
        sparse_attention.compress(caches.random(case, device, *shape), keep, backend="reference") for keep in (0.5, 0.3)
    )
    valid = caches.valid(case, device, case.n, 1)
    tail_valid = caches.valid(case, device, case.m, case.H) if case.m else None
    out, lse = sparse_attention.decode(
        q, keys, values, tail_k, tail_v, valid=valid, tail_valid=tail_valid, backend=backend
    )
    parts = [(sparse_attention.decompress(keys), sparse_attention.decompress(values), valid)]
    parts += [] if tail_k is None else [(tail_k, tail_v, tail_valid)]
    expected = caches.oracle(q, parts, causal_tail=tail_k is not None)
    assert_close("out", expected.to(case.dtype), out, TOLERANCES[case.dtype])
    assert torch.isfinite(lse).all()


def test_refusals():
    with pytest.raises(InputError, match="keep must be above 0"):
        sparse_attention.compress(tokens(), 0.0)
    with pytest.raises(InputError, match=r"\[B, H, n, d\]"):
        sparse_attention.compress(torch.zeros(3, 4), 0.5)
    keys = sparse_attention.compress(tokens(), 0.5, backend="reference")
    with pytest.raises(InputError, match="keys and values must both be"):
        sparse_attention.decode(torch.zeros(2, 2, 1, 64), keys, keys)
