import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxcomp.errors import InputError, ModelError
from ctxcomp_kernels import dfloat11
from ctxcomp_kernels.dfloat11 import reference
from ctxcomp_kernels.dfloat11.table import LIMIT, codes_of


def weights(n, scale=0.02):
    return (torch.randn(n, generator=torch.Generator().manual_seed(n)) * scale).bfloat16()


def same_bits(one, other):
    return one.shape == other.shape and torch.equal(one.view(torch.int16), other.view(torch.int16))


EVERY = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
FIBONACCI = torch.cat([torch.full((int(1.6**k),), 2.0**k) for k in range(24)]).bfloat16()  # wants codes of 23 bits


@pytest.mark.parametrize("n", [0, 1, 2, 63, 64, 111, 5001])
def test_bits_survive(n):
    w = weights(n)
    assert same_bits(dfloat11.decode(dfloat11.encode(w), backend="reference"), w)


@pytest.mark.parametrize("w", [EVERY, FIBONACCI, torch.full((999,), -2.0).bfloat16()], ids=["every", "skewed", "one"])
def test_extreme_distributions(w):
    encoded = dfloat11.encode(w)
    assert int(encoded.table.lengths.max()) <= LIMIT
    assert same_bits(dfloat11.decode(encoded, backend="reference"), w)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-(2**15), 2**15 - 1), max_size=300))
def test_any_bits_survive(integers):
    w = torch.tensor(integers, dtype=torch.int16).view(torch.bfloat16)
    assert same_bits(dfloat11.decode(dfloat11.encode(w), backend="reference"), w)


def test_parts_join_without_a_seam(monkeypatch):
    w = weights(1000).view(10, 100)
    whole = dfloat11.encode(w)
    monkeypatch.setattr(reference, "ENCODED_AT_ONCE", 37)
    monkeypatch.setattr(reference, "DECODED_AT_ONCE", 3)
    parts = dfloat11.encode(w)
    for name in ("stream", "gaps", "positions"):
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name
    assert same_bits(dfloat11.decode(parts, backend="reference"), w)


def test_code_is_near_the_entropy_and_decodable():
    counts = dfloat11.histogram(weights(200_000))
    lengths = dfloat11.code_table(counts).lengths
    part = counts / counts.sum()
    entropy = -(part[part > 0] * part[part > 0].log2()).sum()
    mean = float((part * lengths).sum())
    assert entropy <= mean < entropy + 0.1
    assert sum(2.0 ** -int(length) for length in lengths if length) == 1.0  # Kraft: a complete code
    codes = codes_of(lengths)
    words = {format(code, f"0{int(lengths[symbol])}b") for symbol, code in codes.items()}
    assert not any(one != other and one.startswith(other) for one in words for other in words)


def test_bytes_and_shared_table():
    one, other = weights(30_000), weights(50_000, scale=0.03)
    table = dfloat11.code_table(dfloat11.histogram(one) + dfloat11.histogram(other))
    for w in (one, other):
        encoded = dfloat11.encode(w, table)
        assert encoded.table is table
        assert encoded.nbytes(with_table=False) <= 0.72 * 2 * w.numel()
        assert same_bits(dfloat11.decode(encoded, backend="reference"), w)
    assert table.nbytes() == 256 + 2 * 2**LIMIT


@pytest.mark.parametrize("w", [weights(1), weights(3001), EVERY[::7]], ids=["one", "gauss", "spread"])
def test_kernel_bits(w, device, poison):
    encoded = dfloat11.encode(w.to(device))
    assert same_bits(dfloat11.decode(encoded, backend="triton").cpu(), w)


def test_out_is_written():
    w = weights(600).view(20, 30)
    out = torch.zeros(20, 30, dtype=torch.bfloat16)
    assert dfloat11.decode(dfloat11.encode(w), out=out, backend="reference") is out
    assert same_bits(out, w)


def test_refusals():
    with pytest.raises(InputError, match=r"bfloat16 weights, got torch\.float16"):
        dfloat11.encode(torch.zeros(3).half())
    with pytest.raises(InputError, match="no code for some exponents"):
        dfloat11.encode(torch.tensor([1e9]).bfloat16(), dfloat11.code_table(dfloat11.histogram(weights(100))))
    with pytest.raises(InputError, match="out must be contiguous bfloat16"):
        dfloat11.decode(dfloat11.encode(weights(5)), out=torch.zeros(6).bfloat16())
    encoded = dfloat11.encode(weights(1000))
    short = dfloat11.Encoded(
        (1000,), encoded.sign_mantissa, encoded.stream[:9], *(encoded.gaps, encoded.positions), encoded.table
    )
    with pytest.raises(ModelError, match="damaged DFloat11 data: 1000 weights expected"):
        dfloat11.decode(short, backend="reference")
