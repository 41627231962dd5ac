"""SpQR: which weights are kept apart, what the scales' levels hold, what it costs, what it gains."""

import pytest
import torch
from generate.inputs import layer, relative_error
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.generate.weights.columns import Plan
from ctxcomp.generate.weights.gptq import Gptq
from ctxcomp.generate.weights.grid import find_grid
from ctxcomp.generate.weights.linear import QuantizedLinear
from ctxcomp.generate.weights.rtn import Rtn
from ctxcomp.generate.weights.spqr import Spqr, _OutlierRounder


def leave_one_out(group: Tensor, importance: Tensor, bits: int) -> Tensor:
    """By how much the weighted error of a group [g] falls when each of its weights is left out of it."""

    def error(values: Tensor, weights: Tensor) -> Tensor:
        grid = find_grid(values[None], bits, 0)
        return ((grid.decode(grid.encode(values[None]))[0] - values).square() * weights).sum()

    everything = error(group, importance)
    keeps = [torch.arange(len(group)) != j for j in range(len(group))]
    return torch.stack([everything - error(group[keep], importance[keep]) for keep in keeps])


def test_likely_outliers_are_those_of_leaving_each_one_out() -> None:
    weight, statistics, _ = layer(20, 64)
    importance = Plan.of(statistics.hessian, act_order=True, damping=0.01).importance
    gains = torch.stack(
        [
            torch.cat([leave_one_out(row[i : i + 16], importance[i : i + 16], 3) for i in range(0, 64, 16)])
            for row in weight
        ]
    )
    limit = float(gains.flatten().kthvalue(int(gains.numel() * 0.97)).values) * 1.0001
    found = Spqr(bits=3)._likely_outliers(weight, importance, limit)
    assert torch.equal(found, gains > limit)
    assert 0.01 < found.float().mean() < 0.05


def test_outliers_replace_what_their_codes_decode_to() -> None:
    weight, statistics, _ = layer(24, 96)
    quantized = Spqr(bits=3, outlier_threshold=0.2).quantize_weight(weight, statistics)
    assert quantized.outliers is not None
    rows, columns = quantized.outliers.rows.long(), quantized.outliers.columns.long()
    dense = quantized.dequantize()
    assert torch.equal(dense[rows, columns], quantized.outliers.values.float())
    assert len(torch.unique(rows * 96 + columns)) == len(rows)
    large = weight.abs() > weight.abs().flatten().kthvalue(int(weight.numel() * 0.995)).values
    kept = torch.zeros_like(large)
    kept[rows, columns] = True
    assert kept[large].float().mean() > 3 * kept.float().mean()


@pytest.mark.parametrize("act_order", [False, True])
def test_a_column_keeps_what_would_cost_more_than_the_limit(act_order: bool) -> None:
    weight, statistics, _ = layer(40, 32)
    plan = Plan.of(statistics.hessian, act_order=act_order, damping=0.01)
    grid = find_grid(weight * 0.5, 2, 16)  # clips
    costs = (grid.decode(grid.encode(weight)) - weight).square() * plan.importance
    limit = float(costs.median())
    rounder = _OutlierRounder(plan, grid, torch.arange(32) // 16, limit)
    decoded = torch.stack([rounder.round(j, weight[:, int(plan.order[j])]) for j in range(32)], 1)[:, plan.back]
    outliers = rounder.outliers()
    assert outliers is not None
    kept = torch.zeros_like(weight, dtype=torch.bool)
    kept[outliers.rows.long(), outliers.columns.long()] = True
    assert torch.equal(kept, costs > limit)
    assert torch.equal(decoded[kept], weight.half().float()[kept])
    assert torch.equal(decoded[~kept], grid.decode(grid.encode(weight))[~kept])


def test_the_threshold_sets_how_many_are_kept_apart() -> None:
    weight, statistics, _ = layer(32, 64)
    shares = []
    for threshold in (0.05, 0.2, 0.5, 1e6):
        outliers = Spqr(bits=3, outlier_threshold=threshold).quantize_weight(weight, statistics).outliers
        shares.append(0.0 if outliers is None else len(outliers.rows) / weight.numel())
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[1] > shares[2] > shares[3] == 0


@pytest.mark.parametrize("rows", [16, 37])
def test_scales_are_exactly_what_their_levels_decode_to(rows: int) -> None:
    weight, statistics, _ = layer(rows, 48)
    quantized = Spqr(bits=4).quantize_weight(weight, statistics)
    levels = quantized.scale_levels
    assert levels is not None
    assert torch.equal(levels.decode(), quantized.scales)
    assert levels.codes.max() <= 7
    for first in range(0, rows, 16):
        for group in range(3):
            assert len(quantized.scales[first : first + 16, group].unique()) <= 8


def test_levels_cost_little_error_and_far_fewer_bits() -> None:
    weight, statistics, _ = layer(48, 64)
    plain = Spqr(bits=4, scale_bits=0).quantize_weight(weight, statistics)
    levelled = Spqr(bits=4).quantize_weight(weight, statistics)
    errors = [relative_error(weight, q.dequantize(), statistics) for q in (plain, levelled)]
    assert errors[1] < 1.15 * errors[0]
    assert levelled.nbytes() < 0.9 * plain.nbytes()


def test_bytes_are_the_sum_of_the_bits() -> None:
    weight, statistics, _ = layer(40, 64)
    quantized = Spqr(bits=3, outlier_threshold=0.2).quantize_weight(weight, statistics)
    assert quantized.outliers is not None
    groups, blocks = 64 // 16, 3  # 40 rows are three blocks of 16
    bits = 40 * 64 * 3 + 40 * groups * 3 + 40 * groups * 3 + blocks * groups * 2 * 16
    assert quantized.nbytes() == bits // 8 + len(quantized.outliers.rows) * (2 + 2 + 2)


def test_the_layer_holds_the_levels_and_runs_as_the_weight() -> None:
    weight, statistics, _ = layer(48, 64)
    quantized = Spqr(bits=4).quantize_weight(weight, statistics)
    module = QuantizedLinear.from_weight(quantized)
    for count in (1, 64):
        x = statistics.sample[:count]
        torch.testing.assert_close(module(x), x @ quantized.dequantize().T, rtol=1e-4, atol=1e-4)
    again = module.to_weight()
    assert torch.equal(again.dequantize(), quantized.dequantize())
    assert again.nbytes() == quantized.nbytes()
    plain = QuantizedLinear.from_weight(Spqr(bits=4, scale_bits=0).quantize_weight(weight, statistics))
    assert module.nbytes() < plain.nbytes()


@pytest.mark.parametrize("bits", [3, 4])
def test_output_error_is_well_below_gptq_with_larger_groups(bits: int) -> None:
    weight, statistics, others = layer(32, 128)
    ours = Spqr(bits=bits).quantize_weight(weight, statistics)
    gptq = Gptq(bits=bits, group_size=64).quantize_weight(weight, statistics)
    rtn = Rtn(bits=bits, group_size=64).quantize_weight(weight, statistics)
    for inputs in (statistics, others):
        errors = [relative_error(weight, q.dequantize(), inputs) for q in (ours, gptq, rtn)]
        assert errors[0] < 0.8 * errors[1]
        assert errors[0] < 0.3 * errors[2]


def test_symmetric_weights_have_no_zeros() -> None:
    weight, statistics, _ = layer(16, 64)
    quantized = Spqr(symmetric=True).quantize_weight(weight, statistics)
    assert quantized.zeros is None
    assert relative_error(weight, quantized.dequantize(), statistics) < 0.01


@pytest.mark.parametrize(
    "fields", [{"outlier_threshold": 0.0}, {"scale_bits": 1}, {"scale_bits": 9}, {"scale_rows": 0}]
)
def test_fields_are_checked(fields: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(fields))):
        Spqr(**fields)
