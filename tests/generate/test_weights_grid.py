"""Grids: rounding is to the nearest value, zero stays zero, and nothing leaves the range."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxcomp.generate.weights.grid import find_grid, grouped, nearest, ungrouped

WEIGHTS = st.builds(
    lambda n, k, scale, shift, seed: torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) * scale + shift,
    st.integers(1, 5),
    st.integers(1, 70),
    st.sampled_from([1e-7, 1e-3, 0.05, 1.0, 300.0]),
    st.sampled_from([0.0, 0.0, -0.2, 5.0]),
    st.integers(0, 99),
)


@settings(max_examples=60)
@given(WEIGHTS, st.integers(2, 8), st.sampled_from([0, 1, 16, 32, 128]), st.booleans())
def test_each_weight_is_within_half_a_step(weight, bits, size, symmetric):
    quantized = find_grid(weight, bits, size, symmetric=symmetric).quantized(weight)
    decoded = quantized.dequantize()
    step = quantized.scales.float()[:, quantized.column_groups()]
    # float16 scales are rounded, the smallest to multiples of 2^-24: the ends of the range may lie a little outside of
    # what they reach.
    rounded = weight.abs() * 2**-10 + 2.0 ** (bits - 25)
    assert bool(((decoded - weight).abs() <= step * 0.5 + rounded + 1e-6).all())
    assert int(quantized.codes.max()) < 2**bits
    assert torch.equal(decoded, nearest(weight, bits, size, symmetric=symmetric))


def test_no_other_code_is_nearer():
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(3))
    grid = find_grid(weight, 3, 16)
    errors = torch.stack([(grid.decode(torch.full((4, 32), c, dtype=torch.uint8)) - weight).abs() for c in range(8)])
    assert torch.equal(errors.gather(0, grid.encode(weight)[None].long())[0], errors.amin(0))


@pytest.mark.parametrize("value", [0.0, 0.3, -0.3])
def test_groups_of_one_value_and_zeros_are_exact(value):
    weight = torch.full((2, 16), value)
    weight[0, :8] = 0
    assert torch.allclose(nearest(weight, 4, 16), weight, rtol=1e-3, atol=0)


def test_asymmetric_grids_reach_both_ends_and_symmetric_ones_follow_compressed_tensors():
    weight = torch.tensor([[-1.0, 0.0, 0.5, 2.0]])
    grid = find_grid(weight, 4, 4)
    assert grid.scales.item() == pytest.approx(0.2, rel=1e-3)
    assert grid.encode(weight).tolist() == [[0, 5, 7, 15]] or grid.encode(weight).tolist() == [[0, 5, 8, 15]]
    even = find_grid(weight, 4, 4, symmetric=True)
    assert even.zeros is None
    assert even.scales.item() == pytest.approx(2 / 7.5, rel=1e-3)


def test_grouping_pads_and_unpads():
    weight = torch.arange(10.0).view(2, 5)
    groups = grouped(weight, 3)
    assert groups.tolist()[0] == [[0, 1, 2], [3, 4, 0]]
    assert torch.equal(ungrouped(groups, 5), weight)
