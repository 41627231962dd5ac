"""GPTQ against an independent derivation, and against what it must beat."""

import pytest
import torch
from generate.inputs import layer, relative_error
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.generate.weights.columns import Plan
from ctxcomp.generate.weights.gptq import Gptq
from ctxcomp.generate.weights.grid import find_grid
from ctxcomp.generate.weights.grid_search import group_error, search_grid
from ctxcomp.generate.weights.hessian import inverse_factor
from ctxcomp.generate.weights.quantize import quantize
from ctxcomp.generate.weights.rtn import Rtn
from ctxcomp.generate.weights.statistics import LayerStatistics


def best_completion(weight: Tensor, fixed: Tensor, count: int, hessian: Tensor) -> Tensor:
    """The row [K] of least error under H whose first ``count`` entries are ``fixed``: solved from scratch."""
    free, known = slice(count, None), slice(0, count)
    change = torch.linalg.solve(hessian[free, free], -hessian[free, known] @ (fixed - weight[known]))
    return torch.cat([fixed, weight[free] + change])


def slow_codes(weight: Tensor, hessian: Tensor, order: Tensor, scales: Tensor, zeros: Tensor, size: int) -> Tensor:
    """GPTQ by definition: after each column a least-squares problem for all columns that are left, in float64."""
    w, h = weight[:, order].double(), hessian[order][:, order].double()
    h = h + 0.01 * h.diagonal().mean() * torch.eye(len(h))
    codes = torch.zeros_like(weight, dtype=torch.uint8)
    for row in range(len(w)):
        fixed = w.new_zeros(0)
        for j, column in enumerate(order.tolist()):
            scale, zero = scales[row, column // size].double(), zeros[row, column // size].double()
            wanted = best_completion(w[row], fixed, j, h)[j]
            code = (wanted / scale + zero).round().clamp(0, 15)
            codes[row, column] = int(code)
            fixed = torch.cat([fixed, ((code - zero) * scale)[None]])
    return codes


@pytest.mark.parametrize("act_order", [False, True])
def test_codes_are_those_of_re_solved_least_squares(act_order: bool) -> None:
    weight, statistics, _ = layer(4, 32)
    quantized = Gptq(group_size=8, act_order=act_order).quantize_weight(weight, statistics)
    diagonal = statistics.hessian.diagonal()
    order = diagonal.argsort(descending=True) if act_order else torch.arange(32)
    assert quantized.zeros is not None
    codes = slow_codes(weight, statistics.hessian, order, quantized.scales, quantized.zeros, 8)
    assert (quantized.codes == codes).float().mean() == 1.0
    nearest = Rtn(group_size=8).quantize_weight(weight, statistics).codes
    assert (quantized.codes != nearest).float().mean() > 0.2


def test_blocks_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, statistics, _ = layer(16, 160)
    plain = Gptq(group_size=32).quantize_weight(weight, statistics)
    monkeypatch.setattr("ctxcomp.generate.weights.columns.BLOCK", 1)
    small = Gptq(group_size=32).quantize_weight(weight, statistics)
    assert (plain.codes == small.codes).float().mean() > 0.99


def test_the_factor_is_that_of_the_inverse() -> None:
    _, statistics, _ = layer(1, 48)
    hessian = statistics.hessian.double()
    factor = inverse_factor(hessian, 0.02)
    damped = hessian + 0.02 * hessian.diagonal().mean() * torch.eye(48)
    torch.testing.assert_close(factor.T @ factor, torch.linalg.inv(damped), rtol=1e-6, atol=1e-9)
    assert torch.equal(factor, factor.triu())
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    torch.testing.assert_close(factor, upper, rtol=1e-6, atol=1e-9)


def test_dead_columns_are_rounded_and_give_no_corrections() -> None:
    weight, statistics, _ = layer(8, 32)
    hessian = statistics.hessian.clone()
    hessian[5], hessian[:, 5] = 0, 0
    dead = LayerStatistics(9, statistics.mean_abs, statistics.max_abs, statistics.sample, hessian)
    plan = Plan.of(hessian, act_order=False, damping=0.01)
    assert plan.factor[5, 6:].abs().max() == 0
    assert plan.factor[:5, 5].abs().max() == 0
    quantized = Gptq(group_size=16).quantize_weight(weight, dead)
    step = quantized.scales[:, 0].float()
    assert ((quantized.dequantize() - weight)[:, 5].abs() <= step / 2 + 1e-6).float().mean() >= 0.5
    assert torch.isfinite(quantized.dequantize()).all()


def test_a_singular_hessian_is_damped_until_it_can_be_factored() -> None:
    x = torch.ones(3, 24) * 1e3
    factor = inverse_factor(x.T @ x, 1e-12)
    assert torch.isfinite(factor).all()


def test_overflown_inputs_are_refused() -> None:
    with pytest.raises(InputError, match="not finite"):
        inverse_factor(torch.full((4, 4), torch.inf))


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("options", [{}, {"static_groups": False}, {"symmetric": True}])
def test_output_error_is_well_below_round_to_nearest(bits: int, options: dict[str, bool]) -> None:
    weight, statistics, others = layer(24, 128)
    symmetric = options.get("symmetric", False)
    ours = Gptq(bits=bits, group_size=64, **options).quantize_weight(weight, statistics)
    rtn = Rtn(bits=bits, group_size=64, symmetric=symmetric).quantize_weight(weight, statistics)
    for inputs in (statistics, others):
        error = relative_error(weight, ours.dequantize(), inputs)
        assert error < 0.5 * relative_error(weight, rtn.dequantize(), inputs)


def test_act_order_helps_and_scattered_groups_are_named() -> None:
    weight, statistics, _ = layer(32, 128)

    def run(**options: bool) -> float:
        quantized = Gptq(bits=3, group_size=32, **options).quantize_weight(weight, statistics)
        assert (quantized.groups is not None) == (options == {"act_order": True, "static_groups": False})
        if quantized.groups is not None:
            assert torch.bincount(quantized.groups).tolist() == [32] * 4
            loudest = statistics.hessian.diagonal().argsort(descending=True)[:32]
            assert (quantized.groups[loudest] == 0).all()
        return relative_error(weight, quantized.dequantize(), statistics)

    plain = run(act_order=False, static_groups=False)
    assert run(act_order=True, static_groups=True) < 0.95 * plain
    assert run(act_order=True, static_groups=False) < 0.95 * plain


@pytest.mark.parametrize(("group_size", "columns"), [(0, 40), (128, 40), (16, 40), (40, 40), (24, 41)])
@pytest.mark.parametrize("static_groups", [False, True])
def test_any_group_size(group_size: int, columns: int, static_groups: bool) -> None:
    weight, statistics, _ = layer(6, columns)
    quantized = Gptq(bits=8, group_size=group_size, static_groups=static_groups).quantize_weight(weight, statistics)
    assert quantized.scales.shape == (6, -(-columns // quantized.group_size))
    assert relative_error(weight, quantized.dequantize(), statistics) < 1e-4


def test_bytes_are_the_sum_of_the_bits() -> None:
    weight, statistics, _ = layer(10, 96)
    quantized = Gptq(bits=3, group_size=32).quantize_weight(weight, statistics)
    assert quantized.nbytes() == (10 * 96 * 3 + 10 * 3 * 16) // 8 + -(-10 * 3 * 3 // 8)
    scattered = Gptq(bits=3, group_size=32, static_groups=False).quantize_weight(weight, statistics)
    assert scattered.nbytes() == quantized.nbytes() + 96 * 4


def test_the_searched_grid_is_never_worse_and_heeds_importance() -> None:
    weight, statistics, _ = layer(12, 64)
    importance = Plan.of(statistics.hessian, act_order=False, damping=0.01).importance
    own, searched = find_grid(weight, 3, 32), search_grid(weight, 3, 32, importance)
    flat = search_grid(weight, 3, 32, torch.ones(64))
    errors = [group_error(grid, weight, importance) for grid in (own, searched, flat)]
    assert (errors[1] <= errors[0]).all()
    assert errors[1].sum() < 0.95 * errors[0].sum()
    assert (errors[1] <= errors[2] * (1 + 1e-5)).all()
    assert errors[1].sum() < errors[2].sum()


@pytest.mark.parametrize("damping", [0.0, 1.5])
def test_damping_is_checked(damping: float) -> None:
    with pytest.raises(InputError, match="damping"):
        Gptq(damping=damping)


def test_a_whole_model_is_quantized_with_less_error_than_round_to_nearest() -> None:
    from generate.models import random_ids, tiny_llama

    ids = random_ids(4, 64)
    errors = {}
    for method in ("rtn", "gptq"):
        report = quantize(tiny_llama(), method, ids, bits=3, group_size=32)
        errors[method] = sum(layer.error**2 for layer in report.layers)
    assert errors["gptq"] < 0.9 * errors["rtn"]
