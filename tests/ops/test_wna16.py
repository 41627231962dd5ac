"""The linear layer with packed weights: kernels against the reference, torch's operator, compilation, gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from ops.weights import activations, packed_weight

from ctxcomp.errors import InputError
from ctxcomp_kernels import wna16
from ctxcomp_kernels.testing import assert_close, relative_rmse
from ctxcomp_kernels.wna16 import config, reference

# float16 rounds to 2**-11, bfloat16 to 2**-8; the interpreter cuts bfloat16 off where a GPU rounds it.
TOLERANCE = {torch.float16: 6e-4, torch.bfloat16: 8e-3, torch.float32: 2e-6}
CASES = [  # bits, rows, N, K, group
    (4, 1, 111, 256, 128),
    (4, 1, 33, 130, 64),
    (4, 2, 64, 96, 32),
    (4, 3, 40, 111, 111),
    (4, 4, 70, 410, 128),
    (4, 5, 111, 256, 128),
    (4, 17, 33, 130, 64),
    (4, 63, 16, 64, 16),
    (2, 1, 40, 128, 32),
    (2, 16, 40, 160, 64),
    (8, 1, 40, 100, 32),
    (8, 7, 33, 128, 128),
    (3, 2, 40, 111, 64),  # widths and groups that do not fit a word, and many rows, are decoded first
    (4, 2, 40, 60, 20),
    (4, 70, 33, 96, 32),
]


def case_id(case):
    return "b{}-m{}-n{}-k{}-g{}".format(*case)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_the_kernel_matches_the_reference(case, dtype, device, poison):
    bits, m, n, k, group = case
    symmetric = (m + n) % 2 == 0  # both kinds, without doubling the tests
    weight = packed_weight(n, k, bits, group, zeros=not symmetric, dtype=dtype, device=device)
    x = activations(m, k, dtype, device)
    bias = None if symmetric else activations(1, n, dtype, device, seed=2)[0]
    expected = wna16.linear(x, *weight, bias, backend="reference")
    assert_close(case_id(case), expected, wna16.linear(x, *weight, bias, backend="triton"), TOLERANCE[dtype])


@pytest.mark.parametrize("m", [1, 2, 3, 4, 6])
def test_float32_activations(m, device, poison):
    weight = packed_weight(40, 160, 4, 32, device=device)
    x = activations(m, 160, torch.float32, device)
    expected = wna16.linear(x, *weight, backend="reference")
    assert_close(f"M{m}", expected, wna16.linear(x, *weight, backend="triton"), TOLERANCE[torch.float32])


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": "gemv", "block_n": 16, "block_w": 4, "split_k": 3},  # a group shared by two blocks; uneven splits
        {"kernel": "gemv", "block_n": 64, "block_w": 16, "split_k": 8},
        {"kernel": "dot", "block_n": 16, "block_w": 16, "split_k": 2},
        {"kernel": "dot", "block_n": 64, "block_w": 32, "split_k": 1},
    ],
    ids=lambda c: f"{c['kernel']}{c['block_n']}x{c['block_w']}s{c['split_k']}",
)
def test_every_way_to_cut_the_work_gives_the_same(changes, device, poison):
    from ctxcomp_kernels.wna16 import fused

    chosen = dataclasses.replace(config.pick("default", 1, 64, 320), **changes)
    for m, n in ((1, 64), (4, 70)):
        weight = packed_weight(n, 320, 4, 64, device=device)
        x = activations(m, 320, torch.float16, device)
        expected = wna16.linear(x, *weight, backend="reference")
        assert_close(f"M{m}", expected, fused.linear(x, *weight, None, chosen), TOLERANCE[torch.float16])


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
def test_dequantize_matches_the_reference(bits, device, poison):
    weight = packed_weight(37, 111, bits, 64, device=device)
    expected = wna16.dequantize(*weight, 111, torch.float32, backend="reference")
    assert torch.equal(wna16.dequantize(*weight, 111, torch.float32, backend="triton"), expected)


def test_the_reference_is_its_formula():
    packed, scales, zeros, bits, group = packed_weight(5, 70, 3, 32)
    stream = [sum((int(w) & 0xFFFFFFFF) << (32 * i) for i, w in enumerate(packed[:, row])) for row in range(5)]
    codes = torch.tensor([[(stream[row] >> (3 * k)) & 7 for k in range(70)] for row in range(5)], dtype=torch.float64)
    columns = torch.arange(70) // 32
    expected = (codes - zeros[columns].t()) * scales[columns].t().double()
    assert relative_rmse(expected, reference.dequantize(packed, scales, zeros, bits, group, 70, torch.float32)) < 1e-7
    x = activations(3, 70, torch.float32)
    out = reference.linear(x, packed, scales, zeros, bits, group)
    assert relative_rmse(x.double() @ expected.t(), out) < 1e-6


def test_the_tolerance_would_see_another_zero(device):
    packed, scales, zeros, bits, group = packed_weight(64, 256, 8, 128)
    x = activations(2, 256, torch.float16)
    off = zeros + torch.where(zeros < 255, 1, -1).to(torch.uint8)
    ours = wna16.linear(x, packed, scales, zeros, bits, group, backend="reference")
    error = relative_rmse(ours, wna16.linear(x, packed, scales, off, bits, group, backend="reference"))
    assert error > 4 * TOLERANCE[torch.float16]


def test_large_weights_are_decoded_in_chunks(monkeypatch):
    weight = packed_weight(37, 64, 4, 32)
    x = activations(2, 64, torch.float32)
    whole = reference.linear(x, *weight)
    monkeypatch.setattr(reference, "CHUNK", 64 * 5)
    assert_close("chunks", whole, reference.linear(x, *weight), 1e-6)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_leading_dimensions_views_and_nothing(backend, device):
    weight = packed_weight(24, 64, 4, 32, device=device)
    x = activations(6, 128, torch.float16, device).view(2, 3, 128)
    view = x[:, :, 1:65]  # neither contiguous nor aligned
    expected = wna16.linear(view.contiguous(), *weight, backend="reference")
    assert_close("view", expected, wna16.linear(view, *weight, backend=backend), 6e-4)
    assert wna16.linear(x[:0, :, :64], *weight, backend=backend).shape == (0, 3, 24)
    bias = activations(1, 24, torch.float16, device)[0]
    empty = packed_weight(24, 0, 4, 32, device=device)
    assert torch.equal(wna16.linear(x[0, :, :0], *empty, bias, backend=backend), bias.expand(3, 24))


def test_it_compiles_to_one_graph_with_gradients():
    weight = packed_weight(24, 64, 4, 32)
    bias = torch.randn(24, requires_grad=True)
    x = activations(3, 64, torch.float32).requires_grad_()

    def call(x, bias):
        return wna16.linear(x, *weight, bias, backend="reference")

    call(x, bias).square().sum().backward()
    grads = x.grad, bias.grad
    dense = wna16.dequantize(*weight, 64, torch.float32, backend="reference")
    x.grad = bias.grad = None
    torch.nn.functional.linear(x, dense, bias).square().sum().backward()
    assert_close("grad", x.grad, grads[0], 1e-5)
    assert_close("grad of the bias", bias.grad, grads[1], 1e-5)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, bias), call(x, bias))


def test_the_operator_keeps_torchs_rules():
    packed, scales, zeros, bits, group = packed_weight(24, 64, 4, 32)
    x = activations(3, 64, torch.float32).requires_grad_()
    args = (x, packed, scales, zeros, torch.randn(24), bits, group, "reference")
    torch.library.opcheck(torch.ops.ctxcomp.wna16_linear.default, args)


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("group", [32, 64, 128, 256])
def test_torchs_cpu_operator_agrees(group, zeros):
    weight = packed_weight(48, 512, 4, group, zeros=zeros)
    prepared = wna16.prepare_cpu(*weight, 512)
    x = activations(5, 512, torch.bfloat16).view(1, 5, 512)
    bias = activations(1, 48, torch.bfloat16)[0]
    expected = wna16.linear(x, *weight, bias, backend="reference")
    assert_close("int4", expected, wna16.linear_cpu(x, prepared, bias), 1e-2)  # scales and zeros rounded to bfloat16


@pytest.mark.parametrize(("n", "k", "bits", "group"), [(48, 512, 8, 32), (40, 512, 4, 32), (48, 512, 4, 512)])
def test_torchs_cpu_operator_is_left_alone_where_it_does_not_fit(n, k, bits, group):
    assert wna16.prepare_cpu(*packed_weight(n, k, bits, group), k) is None


def test_errors_name_what_is_wrong():
    packed, scales, zeros, bits, group = packed_weight(24, 64, 4, 32)
    x = activations(1, 64, torch.float16)
    with pytest.raises(InputError, match=r"72 codes of 4 bits are packed as int32 \[9, N\]"):
        wna16.linear(activations(1, 72, torch.float16), packed, scales, zeros, bits, group)
    with pytest.raises(InputError, match=r"groups of 16 must be floating \[4, 24\]"):
        wna16.linear(x, packed, scales, zeros, bits, 16)
    with pytest.raises(InputError, match="zeros must be uint8"):
        wna16.linear(x, packed, scales, zeros.int(), bits, group)
    with pytest.raises(InputError, match=r"bias must be \[24\], got \[3\]"):
        wna16.linear(x, packed, scales, zeros, bits, group, torch.zeros(3))
    with pytest.raises(InputError, match="x must be"):
        wna16.linear(x.int(), packed, scales, zeros, bits, group)
    with pytest.raises(InputError, match="1 or more, got 0"):
        wna16.linear(x, packed, scales, zeros, bits, 0)


def test_configurations_cover_every_number_of_rows():
    for device, shapes in config.load().items():
        for shape, rows in shapes.items():
            assert shape == "*" or all(part.isdigit() for part in shape.split("x"))
            assert set(rows) <= {str(b) for b in config.BUCKETS}
            for m in map(int, rows):
                chosen = config.pick(device, m, 4096, 4096)
                assert chosen.kernel in ("gemv", "dot")
                assert chosen.kernel == "dot" or m <= 4
    assert all(config.pick("unknown", m, 1, 1) for m in range(1, 65))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 16, 33, 64, 65])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_compiled_kernels_at_real_sizes(bits, m, dtype):
    weight = packed_weight(4096, 14336, bits, 128, dtype=dtype, device="cuda")
    x = activations(m, 14336, dtype, "cuda")
    expected = wna16.linear(x, *weight, backend="reference")
    tolerance = {torch.float16: 6e-4, torch.bfloat16: 4e-3}[dtype]
    first = wna16.linear(x, *weight, backend="triton")
    assert_close("real", expected, first, tolerance)
    assert torch.equal(first, wna16.linear(x, *weight, backend="triton"))
