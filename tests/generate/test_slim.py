"""SliM-LLM: who gets a bit more, that the average stays exact, what it gains."""

import itertools

import pytest
import torch
from generate.inputs import layer, relative_error
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.generate.weights.gptq import Gptq
from ctxcomp.generate.weights.linear import QuantizedLinear
from ctxcomp.generate.weights.rtn import Rtn
from ctxcomp.generate.weights.slim import Slim, allocate
from ctxcomp.generate.weights.statistics import LayerStatistics


def uneven(rows: int, columns: int, size: int) -> tuple[Tensor, LayerStatistics]:
    """A layer whose groups of columns matter very differently."""
    weight, statistics, _ = layer(rows, columns)
    sizes = torch.linspace(-2, 2, columns // size).exp().flip(0).repeat_interleave(size)
    return weight, LayerStatistics.of(statistics.sample * sizes)


def cost(errors: Tensor, change: tuple[int, ...]) -> float:
    return sum(float(errors[c + 1, g]) for g, c in enumerate(change))


def test_allocation_is_the_best_of_all_when_errors_fall_fourfold_a_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (2, 3, 6, 7):
        own = torch.exp(3 * torch.randn(count, generator=generator))
        errors = torch.stack([own * 4, own, own / 4])
        best = min(
            (cost(errors, change) for change in itertools.product((-1, 0, 1), repeat=count) if sum(change) == 0),
        )
        ours = allocate(errors)
        assert int(ours.sum()) == 0
        assert cost(errors, tuple(ours.tolist())) == pytest.approx(best)


def test_equal_groups_keep_their_bits() -> None:
    assert allocate(torch.tensor([[4.0] * 6, [1.0] * 6, [0.25] * 6])).tolist() == [0] * 6


@pytest.mark.parametrize("bits", [3, 4])
def test_the_average_is_exact_and_the_loudest_groups_get_more(bits: int) -> None:
    weight, statistics = uneven(24, 128, 16)
    quantized = Slim(bits=bits, group_size=16).quantize_weight(weight, statistics)
    assert quantized.group_bits is not None
    widths = quantized.group_bits.long()
    assert widths.float().mean() == bits
    assert (widths == bits + 1).sum() == (widths == bits - 1).sum() > 0
    assert widths[0] == bits + 1
    assert widths[-1] == bits - 1
    assert (quantized.codes < 2 ** quantized.column_bits()).all()
    assert quantized.zeros is not None
    assert (quantized.zeros < 2**widths).all()


def test_bytes_are_the_sum_of_the_bits() -> None:
    weight, statistics = uneven(24, 128, 16)
    quantized = Slim(bits=3, group_size=16).quantize_weight(weight, statistics)
    assert quantized.nbytes() == 24 * 128 * 3 // 8 + 24 * 8 * 16 // 8 + 24 * 8 * 3 // 8 + 8


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("symmetric", [False, True])
def test_output_error_is_below_gptq_at_the_same_bits(bits: int, symmetric: bool) -> None:
    weight, statistics = uneven(24, 128, 16)
    options = {"bits": bits, "group_size": 16, "symmetric": symmetric}
    quantized = [m(**options).quantize_weight(weight, statistics) for m in (Slim, Gptq, Rtn)]
    errors = [relative_error(weight, q.dequantize(), statistics) for q in quantized]
    assert errors[0] < 0.9 * errors[1]
    assert errors[0] < 0.4 * errors[2]
    assert quantized[0].nbytes() <= quantized[1].nbytes() + 8


def test_the_layer_runs_as_the_weight() -> None:
    weight, statistics = uneven(16, 96, 16)
    quantized = Slim(bits=3, group_size=16).quantize_weight(weight, statistics)
    module = QuantizedLinear.from_weight(quantized)
    x = statistics.sample[:3]
    torch.testing.assert_close(module(x), x @ quantized.dequantize().T, rtol=1e-4, atol=1e-4)
    assert torch.equal(module.to_weight().dequantize(), quantized.dequantize())


def test_a_short_last_group_keeps_the_nominal_bits() -> None:
    weight, statistics, _ = layer(8, 72)
    quantized = Slim(bits=4, group_size=16).quantize_weight(weight, statistics)
    assert quantized.group_bits is not None
    assert quantized.group_bits[-1] == 4
    assert quantized.column_bits().float().mean() == 4


@pytest.mark.parametrize("bits", [2, 8])
def test_bits_are_checked(bits: int) -> None:
    with pytest.raises(InputError, match="3 to 7"):
        Slim(bits=bits)
