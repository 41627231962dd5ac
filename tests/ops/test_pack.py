"""Packing: the bit layout, the round trip, the kernels against the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ctxcomp.errors import InputError
from ctxcomp_kernels.pack import pack, unpack

SHAPES = [(1, 1), (3, 32), (37, 111), (64, 63)]


def random_codes(n, k, bits, device="cpu"):
    return torch.randint(0, 1 << bits, (n, k), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(device)


@given(st.integers(1, 8), st.lists(st.integers(0, 255), min_size=1, max_size=70))
def test_a_row_is_one_little_endian_stream_of_bits(bits, values):
    values = [v % (1 << bits) for v in values]
    packed = pack(torch.tensor([values], dtype=torch.uint8), bits, backend="reference")
    stream = sum(v << (i * bits) for i, v in enumerate(values))
    words = [(stream >> (32 * w)) & 0xFFFFFFFF for w in range(-(-len(values) * bits // 32))]
    assert [int(w) & 0xFFFFFFFF for w in packed[:, 0]] == words


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_unpack_is_the_inverse_of_pack(bits, n, k, poison):
    codes = random_codes(n, k, bits)
    packed = pack(codes, bits, backend="reference")
    assert packed.shape == (-(-k * bits // 32), n)
    assert torch.equal(unpack(packed, bits, k, backend="reference"), codes)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(("n", "k"), [(1, 1), (37, 111)])
def test_the_kernels_match_the_reference(bits, n, k, device, poison):
    codes = random_codes(n, k, bits, device)
    packed = pack(codes, bits, backend="triton")
    assert torch.equal(packed, pack(codes, bits, backend="reference"))
    assert torch.equal(unpack(packed, bits, k, backend="triton"), codes)


def test_nothing_packs_to_nothing(device):
    for backend in ("triton", "reference"):
        assert pack(torch.empty(0, 7, dtype=torch.uint8, device=device), 4, backend=backend).shape == (1, 0)
        assert pack(torch.empty(5, 0, dtype=torch.uint8, device=device), 4, backend=backend).shape == (0, 5)


def test_errors_name_what_is_wrong():
    with pytest.raises(InputError, match="1 to 8, got 9"):
        pack(torch.zeros(1, 1, dtype=torch.uint8), 9)
    with pytest.raises(InputError, match="below 16, got 16"):
        pack(torch.full((1, 1), 16, dtype=torch.uint8), 4)
    with pytest.raises(InputError, match=r"uint8 \[N, K\]"):
        pack(torch.zeros(1, 1, dtype=torch.int64), 4)
    with pytest.raises(InputError, match=r"9 codes of 4 bits are packed as int32 \[2, N\]"):
        unpack(torch.zeros(1, 5, dtype=torch.int32), 4, 9)
