"""The packed layer multiplies with exactly what its weight decodes to, in every form a weight takes."""

import pytest
import torch
from torch.nn import functional

from ctxcomp.errors import InputError
from ctxcomp.generate.weights import Outliers, QuantizedLinear, QuantizedWeight
from ctxcomp.generate.weights.grid import find_grid

N, K, G = 48, 96, 32


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def plain(bits=4, group_size=G, columns=K, symmetric=False):
    weight = torch.randn(N, columns, generator=generator())
    return find_grid(weight, bits, group_size, symmetric=symmetric).quantized(weight)


def with_fields(weight, **changes):
    fields = {name: getattr(weight, name) for name in weight.__dataclass_fields__}
    return QuantizedWeight(**(fields | changes))


def mixed(zeros=True, groups=None):
    widths = torch.tensor([2, 4, 3], dtype=torch.uint8)
    weight = with_fields(plain(), groups=groups)
    limit = (1 << widths.long()[weight.column_groups()]) - 1
    codes = torch.minimum(weight.codes.long(), limit).to(torch.uint8)
    return with_fields(weight, codes=codes, group_bits=widths, zeros=weight.zeros % 4 if zeros else None)


def outliers(count=40):
    places = torch.randperm(N * K, generator=generator(4))[:count]
    values = torch.randn(count, generator=generator(5)) * 9
    return Outliers((places // K).int(), (places % K).int(), values.half())


def scattered(columns=K):
    order = torch.randperm(columns, generator=generator(2))
    groups = torch.empty(columns, dtype=torch.int32)
    groups[order] = (torch.arange(columns) // G).int()
    return groups


def low_rank(rank=5):
    return torch.randn(N, rank, generator=generator(6)).half(), torch.randn(rank, K, generator=generator(7)).half()


CASES = {
    "plain": plain,
    "symmetric": lambda: plain(symmetric=True),
    "3 bits": lambda: plain(3),
    "8 bits": lambda: plain(8),
    "one group per row": lambda: plain(group_size=0),
    "short last group": lambda: plain(columns=K - 7),
    "act-order": lambda: with_fields(plain(), groups=scattered()),
    "act-order, short last group": lambda: with_fields(plain(columns=K - 7), groups=scattered(K - 7)),
    "mixed bits": mixed,
    "mixed bits, symmetric": lambda: mixed(zeros=False),
    "mixed bits, act-order": lambda: mixed(groups=scattered()),
    "outliers": lambda: with_fields(plain(), outliers=outliers()),
    "low rank": lambda: with_fields(plain(), low_rank=low_rank()),
    "everything": lambda: with_fields(mixed(groups=scattered()), outliers=outliers(), low_rank=low_rank()),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_forward_multiplies_with_the_decoded_weight(name, rows):
    weight = CASES[name]()
    bias = torch.randn(N, generator=generator(8))
    layer = QuantizedLinear.from_weight(weight, bias)
    x = torch.randn(2, rows, weight.shape[1], generator=generator(9))
    wanted = functional.linear(x.double(), weight.dequantize(torch.float64), bias.double())
    assert float((layer(x) - wanted).norm() / wanted.norm()) < 1e-6
    assert torch.allclose(layer.dense(torch.float32), weight.dequantize(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_weight_comes_back(name):
    weight = CASES[name]()
    back = QuantizedLinear.from_weight(weight).to_weight()
    assert torch.equal(back.dequantize(), weight.dequantize())
    assert torch.equal(back.scales, weight.scales)
    if weight.zeros is None or back.zeros is None:
        assert weight.zeros is back.zeros
    else:
        assert torch.equal(back.zeros, weight.zeros)
    if weight.outliers is None:
        assert torch.equal(back.codes, weight.codes)
    assert back.nbytes() == weight.nbytes()
    again = QuantizedLinear.from_weight(back).to_weight()
    assert torch.equal(again.codes, back.codes)


def test_the_layer_holds_what_the_weight_counts():
    weight = plain(symmetric=True)
    layer = QuantizedLinear.from_weight(weight, torch.zeros(N).half())
    assert layer.nbytes() == weight.nbytes() + N * 2
    assert layer.nbytes() == sum(t.numel() * t.element_size() for t in layer.state_dict().values())


def test_the_state_can_be_loaded_into_a_layer_of_the_same_form():
    one, other = (QuantizedLinear.from_weight(with_fields(mixed(), low_rank=low_rank(r))) for r in (5, 5))
    for tensor in other.state_dict().values():
        tensor.zero_()
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.to_weight().dequantize(), one.to_weight().dequantize())


def test_bfloat16_on_a_cpu_runs_on_torchs_own_operator_and_stays_close():
    weight = plain()
    layer = QuantizedLinear.from_weight(weight)
    x = torch.randn(5, K, generator=generator(1)).bfloat16()
    wanted = x.double() @ weight.dequantize(torch.float64).T
    before = layer.nbytes()
    assert float((layer(x) - wanted).norm() / wanted.norm()) < 0.01
    assert layer.nbytes() > before  # the copy for that operator is not kept secret
    layer.to(torch.float32)
    assert layer.nbytes() == before


def test_gradients_reach_the_input():
    weight = plain()
    x = torch.randn(2, K, requires_grad=True)
    QuantizedLinear.from_weight(weight)(x).sum().backward()
    assert torch.allclose(x.grad, weight.dequantize().sum(0).expand(2, K), atol=1e-4)


@pytest.mark.parametrize("name", ["plain", "mixed bits", "low rank"])
def test_it_compiles_without_a_break(name):
    layer = QuantizedLinear.from_weight(CASES[name]())
    x = torch.randn(3, K)
    assert torch.allclose(torch.compile(layer, fullgraph=True, backend="eager")(x), layer(x), atol=1e-5)


def test_groups_that_do_not_fill_up_are_refused():
    groups = scattered()
    groups[groups == 0] = 1
    with pytest.raises(InputError, match="32 columns"):
        QuantizedLinear.from_weight(with_fields(plain(), groups=groups))
