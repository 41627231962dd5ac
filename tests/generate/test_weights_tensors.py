"""What a quantized weight decodes to and how many bytes it counts, against sums by hand."""

import pytest
import torch

from ctxcomp.errors import InputError
from ctxcomp.generate.weights.tensors import Outliers, QuantizedWeight


def weight(**changes):
    fields = {
        "codes": torch.tensor([[0, 1, 2, 3, 7]], dtype=torch.uint8),
        "scales": torch.tensor([[0.5, 2.0, 10.0]]),
        "zeros": torch.tensor([[1, 2, 0]], dtype=torch.uint8),
        "bits": 3,
        "group_size": 2,
    }
    return QuantizedWeight(**(fields | changes))


def test_groups_scales_and_zeros():
    assert weight().dequantize().tolist() == [[-0.5, 0.0, 0.0, 2.0, 70.0]]


def test_no_zeros_means_the_middle():
    assert weight(zeros=None).dequantize().tolist() == [[-2.0, -1.5, -4.0, -2.0, 30.0]]


def test_scattered_groups():
    groups = torch.tensor([1, 0, 1, 0, 2], dtype=torch.int32)
    assert weight(groups=groups).dequantize().tolist() == [[-4.0, 0.0, 0.0, 1.0, 70.0]]


def test_groups_of_different_bits_have_different_middles():
    widths = torch.tensor([2, 3, 4], dtype=torch.uint8)
    assert weight(zeros=None, group_bits=widths).dequantize().tolist() == [[-1.0, -0.5, -4.0, -2.0, -10.0]]


def test_outliers_replace_and_low_rank_is_added_on_top():
    outliers = Outliers(*(torch.tensor([i], dtype=torch.int32) for i in (0, 4)), torch.tensor([9.0]).half())
    low_rank = (torch.ones(1, 1).half(), torch.tensor([[1.0, 0, 0, 0, 1]]).half())
    found = weight(outliers=outliers, low_rank=low_rank).dequantize()
    assert found.tolist() == [[0.5, 0.0, 0.0, 2.0, 10.0]]


def test_every_stored_bit_is_counted():
    codes, scales, zeros = torch.zeros(8, 40, dtype=torch.uint8), torch.ones(8, 3).half(), torch.zeros(8, 3).byte()
    plain = QuantizedWeight(codes, scales, None, 4, 16)
    assert plain.nbytes() == 8 * 40 // 2 + 8 * 3 * 2
    assert QuantizedWeight(codes, scales, zeros, 4, 16).nbytes() == plain.nbytes() + 8 * 3 // 2
    widths = torch.tensor([2, 4, 6], dtype=torch.uint8)
    mixed = QuantizedWeight(codes, scales, zeros, 4, 16, group_bits=widths)
    assert mixed.nbytes() == (8 * (16 * 2 + 16 * 4 + 8 * 6) + 8 * 12) // 8 + 48 + 3
    some = torch.zeros(5, dtype=torch.int32)
    extras = QuantizedWeight(
        codes,
        scales,
        None,
        4,
        16,
        groups=torch.arange(40, dtype=torch.int32) // 16,
        outliers=Outliers(some, some, some.half()),
        low_rank=(torch.zeros(8, 2).half(), torch.zeros(2, 40).half()),
    )
    assert extras.nbytes() == plain.nbytes() + 40 * 4 + 5 * (4 + 4 + 2) + (16 + 80) * 2


@pytest.mark.parametrize(
    "changes",
    [
        {"codes": torch.zeros(1, 5)},
        {"codes": torch.zeros(5, dtype=torch.uint8)},
        {"scales": torch.ones(1, 2)},
        {"zeros": torch.zeros(3, 1).byte()},
        {"bits": 9},
        {"group_size": 0},
        {"groups": torch.zeros(4, dtype=torch.int32)},
        {"group_bits": torch.zeros(2, dtype=torch.uint8)},
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(changes):
    with pytest.raises(InputError):
        weight(**changes)
