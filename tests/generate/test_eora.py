"""EoRA: no other correction of that rank leaves less output error on the calibration inputs."""

import pytest
import torch
from generate.inputs import layer, relative_error
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.generate.weights.eora import compensate
from ctxcomp.generate.weights.gptq import Gptq
from ctxcomp.generate.weights.linear import QuantizedLinear
from ctxcomp.generate.weights.rtn import Rtn
from ctxcomp.generate.weights.slim import Slim
from ctxcomp.generate.weights.spqr import Spqr
from ctxcomp.generate.weights.statistics import LayerStatistics

METHODS = {"rtn": Rtn, "gptq": Gptq, "spqr": Spqr, "slim": Slim}


def output_square(difference: Tensor, inputs: Tensor) -> float:
    return float((inputs @ difference.T).square().sum())


def alternating(error: Tensor, hessian: Tensor, rank: int, seed: int) -> Tensor:
    """The least ‖(E - BA) X‖ found by alternating least squares from a random start: no eigenvectors, no SVD."""
    a = torch.randn(rank, error.shape[1], dtype=error.dtype, generator=torch.Generator().manual_seed(seed))
    b = error.new_zeros(len(error), rank)
    for _ in range(60):
        b = torch.linalg.solve(a @ hessian @ a.T, a @ hessian @ error.T).T
        a = torch.linalg.solve(b.T @ b, b.T @ error)
    return b @ a


@pytest.mark.parametrize("rank", [1, 4])
def test_no_other_correction_of_that_rank_is_better(rank: int) -> None:
    weight, statistics, _ = layer(24, 40)
    inputs = torch.randn(500, 40, generator=torch.Generator().manual_seed(3)) @ torch.linalg.cholesky(
        statistics.hessian + 1e-3 * torch.eye(40)
    )
    exact = LayerStatistics.of(inputs)
    quantized = Rtn(bits=2, group_size=20).quantize_weight(weight, exact)
    error = weight - quantized.dequantize()
    compensated = compensate(weight, quantized, exact, rank, torch.float32)
    left = output_square(weight - compensated.dequantize(), inputs)
    # Eckart-Young: the squared singular values of the output error that are left out.
    outputs = torch.linalg.svdvals((inputs @ error.T).double())
    assert left == pytest.approx(float(outputs[rank:].square().sum()), rel=1e-3)
    others = [alternating(error.double(), exact.hessian.double(), rank, seed).float() for seed in range(3)]
    unweighted = torch.linalg.svd(error, full_matrices=False)
    others.append((unweighted.U[:, :rank] * unweighted.S[:rank]) @ unweighted.Vh[:rank])
    for other in others:
        assert left <= output_square(error - other, inputs) * (1 + 1e-3)
    assert left < 0.9 * output_square(error - others[-1], inputs)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gains_also_on_other_inputs(method: str) -> None:
    weight, statistics, others = layer(48, 96)
    quantized = METHODS[method](bits=3, group_size=32).quantize_weight(weight, statistics)
    errors = [
        relative_error(weight, q.dequantize(), inputs)
        for inputs in (statistics, others)
        for q in (quantized, compensate(weight, quantized, statistics, 8))
    ]
    assert errors[1] < 0.9 * errors[0]
    assert errors[3] < 0.9 * errors[2]


def test_more_rank_leaves_less_and_full_rank_leaves_nothing() -> None:
    weight, statistics, _ = layer(16, 32)
    quantized = Rtn(bits=3, group_size=32).quantize_weight(weight, statistics)
    errors = [
        relative_error(weight, compensate(weight, quantized, statistics, rank).dequantize(), statistics)
        for rank in (1, 4, 8, 16, 99)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 1e-6
    full = compensate(weight, quantized, statistics, 99)
    assert full.low_rank is not None
    assert full.low_rank[0].shape == (16, 16)


def test_bytes_of_the_factors_are_counted_and_the_layer_adds_them() -> None:
    weight, statistics, _ = layer(24, 64)
    quantized = Gptq(bits=4, group_size=32).quantize_weight(weight, statistics)
    compensated = compensate(weight, quantized, statistics, 4)
    assert compensated.nbytes() == quantized.nbytes() + 4 * (24 + 64) * 2
    x = statistics.sample[:5]
    module = QuantizedLinear.from_weight(compensated)
    torch.testing.assert_close(module(x), x @ compensated.dequantize().T, rtol=1e-3, atol=1e-3)


def test_inputs_of_low_rank_give_finite_factors() -> None:
    weight, statistics, _ = layer(8, 64)
    few = LayerStatistics.of(statistics.sample[:5])
    quantized = Rtn(bits=2, group_size=64).quantize_weight(weight, few)
    compensated = compensate(weight, quantized, few, 5)
    assert torch.isfinite(compensated.dequantize()).all()
    assert relative_error(weight, compensated.dequantize(), few) < 0.01 * relative_error(
        weight, quantized.dequantize(), few
    )


def test_what_cannot_be_compensated_is_refused() -> None:
    weight, statistics, _ = layer(8, 32)
    quantized = Rtn(group_size=32).quantize_weight(weight, statistics)
    with pytest.raises(InputError, match="rank"):
        compensate(weight, quantized, statistics, 0)
    with pytest.raises(InputError, match="already"):
        compensate(weight, compensate(weight, quantized, statistics, 1), statistics, 1)
