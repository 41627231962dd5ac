"""Ranges at 2 bits: never worse than the whole range, and what is clamped is clamped per group."""

import pytest
import torch

from ctxcomp.generate.cache.narrow import SHARES, narrowed
from ctxcomp_kernels.kv_quant import dequantize_keys, dequantize_values, quantize_keys, quantize_values


@pytest.mark.parametrize("tail", [1.0, 3.0])
def test_two_bits_lose_less(tail):
    x = torch.randn(2, 3, 128, 64, generator=torch.Generator().manual_seed(0))
    x = x.abs() ** tail * x.sign()

    def error(keys):
        return (dequantize_keys(*quantize_keys(keys, 2, 64, dtype=torch.float32), 2, torch.float32) - x).square()

    plain, better = error(x), error(narrowed(x, 2, 64, 2))
    groups = (2, 3, 2, 64, 64)
    assert (better.view(groups).sum(3) <= plain.view(groups).sum(3) * 1.0001).all()
    assert better.mean() < 0.75 * plain.mean()


def test_values_by_groups_of_channels():
    x = torch.randn(1, 2, 5, 64, generator=torch.Generator().manual_seed(1))
    x[..., 40] = 50.0  # an outlier decides in its own group alone
    mine = narrowed(x, 3, 32, 2)
    assert torch.equal(mine[..., :32], narrowed(x[..., :32].clone(), 3, 32, 2))
    back = dequantize_values(*quantize_values(mine, 2, 32, dtype=torch.float32), 2, torch.float32)
    assert (back - x)[..., :32].abs().max() < 2


@pytest.mark.parametrize("bits", [4, 8])
def test_more_bits_are_left_alone(bits):
    x = torch.randn(1, 1, 16, 8)
    assert narrowed(x, 2, 16, bits) is x


def test_equal_entries_and_none_at_all():
    assert torch.equal(narrowed(torch.full((1, 1, 8, 4), 3.0), 2, 8, 2), torch.full((1, 1, 8, 4), 3.0))
    assert narrowed(torch.zeros(1, 1, 0, 4), 2, 8, 2).shape == (1, 1, 0, 4)
    assert SHARES[0] == 1.0
