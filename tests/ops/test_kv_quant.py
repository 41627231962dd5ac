import pytest
import torch

from ctxcomp.errors import InputError
from ctxcomp_kernels import kv_quant
from ctxcomp_kernels.testing import assert_close, relative_rmse

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def tokens(shape, dtype=torch.float32, device="cpu"):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(shape[2])).to(device, dtype)
    return x.transpose(1, 2).contiguous().transpose(1, 2)  # strided, as a model's keys are


@pytest.mark.parametrize("bits", kv_quant.BITS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_error_is_at_most_half_a_step(bits, dtype):
    x = tokens((2, 3, 96, 96), dtype)
    for codes, scale, minimum, restored in (
        (*(q := kv_quant.quantize_keys(x, bits, 32, backend="reference")), kv_quant.dequantize_keys(*q, bits)),
        (*(q := kv_quant.quantize_values(x, bits, 48, backend="reference")), kv_quant.dequantize_values(*q, bits)),
    ):
        assert codes.shape == (2, 3, 96, 96 * bits // 8)
        assert codes.dtype == torch.uint8
        assert scale.shape == minimum.shape
        step = scale.float().repeat_interleave(96 // scale.shape[2], 2).repeat_interleave(96 // scale.shape[3], 3)
        # a scale rounded down clips the greatest value by up to `levels` of its roundings
        clipped = (2**bits - 1) * torch.finfo(dtype).eps / 2
        assert ((restored - x.float()).abs() <= step * (0.5001 + clipped)).all()


def test_layout():
    keys = torch.arange(16.0).view(1, 1, 2, 8) % 4  # both tokens hold 0 1 2 3 0 1 2 3
    codes, scale, minimum = kv_quant.quantize_values(keys, 2, backend="reference")
    assert codes.tolist() == [[[[0b11100100] * 2] * 2]]
    assert (scale.tolist(), minimum.tolist()) == ([[[[1.0], [1.0]]]], [[[[0.0], [0.0]]]])


@pytest.mark.parametrize(
    ("shape", "group", "value_group", "bits", "dtype"),
    [
        ((1, 1, 32, 64), 32, 64, 8, torch.float32),
        ((2, 2, 48, 96), 16, 32, 4, torch.float16),
        ((1, 2, 111, 80), 37, 16, 2, torch.float32),
        ((1, 1, 16, 100), 16, 100, 4, torch.float32),
    ],
    ids=str,
)
def test_kernel_equals_reference(shape, group, value_group, bits, dtype, device, poison):
    x = tokens(shape, dtype, device)
    for quantize, size in ((kv_quant.quantize_keys, group), (kv_quant.quantize_values, value_group)):
        expected = quantize(x, bits, size, backend="reference")
        actual = quantize(x, bits, size, backend="triton")
        assert all(torch.equal(one, other) for one, other in zip(expected, actual, strict=True))


def test_kernel_in_bfloat16(device, poison):
    # the interpreter cuts float32 to bfloat16 where a GPU rounds, so scales may differ in the last bit, codes by one
    x = tokens((1, 2, 32, 64), torch.bfloat16, device)
    kernel, reference = (kv_quant.quantize_keys(x, 4, 32, backend=name) for name in ("triton", "reference"))
    assert torch.equal(kernel[2], reference[2])
    assert_close("scale", reference[1], kernel[1], 2**-7)
    codes = [kv_quant.reference.unpack(packed, 4).int() for packed in (kernel[0], reference[0])]
    assert int((codes[0] - codes[1]).abs().max()) <= 1
    assert relative_rmse(x, kv_quant.dequantize_keys(*kernel, 4)) < 1.05 * relative_rmse(
        x, kv_quant.dequantize_keys(*reference, 4)
    )


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("on_device", [False, True])
def test_append_writes_its_slots_and_no_others(backend, on_device, device):
    x = tokens((1, 2, 64, 96), device=device)
    for quantize, append, rows in (
        (kv_quant.quantize_keys, kv_quant.append_keys, 32),
        (kv_quant.quantize_values, kv_quant.append_values, 1),
    ):
        group = 32
        expected = quantize(x, 4, group, backend="reference")
        start = torch.tensor([96], device=device) if on_device else 96
        buffers = [part.new_full((1, 2, part.shape[2] * 4, part.shape[3]), 77) for part in expected]
        append(x, *buffers, start, 4, group, backend=backend)
        for buffer, part, first in zip(buffers, expected, (96, 96 // rows, 96 // rows), strict=True):
            last = first + part.shape[2]
            assert torch.equal(buffer[:, :, first:last], part)
            assert (buffer[:, :, :first] == 77).all()
            assert (buffer[:, :, last:] == 77).all()


def test_append_goes_through_compile():
    x = tokens((1, 1, 32, 64))
    expected = kv_quant.quantize_keys(x, 4, 32, backend="reference")
    buffers = [torch.zeros_like(part) for part in expected]

    def step(x, *buffers):
        kv_quant.append_keys(x, *buffers, torch.zeros((), dtype=torch.long), 4, 32, backend="reference")
        return buffers[0].sum()

    torch.compile(step, fullgraph=True, backend="aot_eager")(x, *buffers)
    assert all(torch.equal(one, other) for one, other in zip(expected, buffers, strict=True))


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_extremes(backend, device):
    x = torch.zeros(1, 1, 32, 64, device=device)
    x[..., 0] = 3.0  # a channel of one value
    x[0, 0, :, 1] = torch.linspace(-6e4, 6e4, 32, device=device)
    codes = kv_quant.quantize_keys(x.half(), 8, 32, backend=backend)
    restored = kv_quant.dequantize_keys(*codes, 8)
    assert torch.equal(restored[..., 0], x[..., 0])
    assert torch.equal(restored[..., 2:], x[..., 2:])
    assert torch.isfinite(restored).all()
    empty = kv_quant.quantize_keys(x[:, :, :0], 4, 32, backend=backend)
    assert kv_quant.dequantize_keys(*empty, 4).shape == (1, 1, 0, 64)


@pytest.mark.parametrize(
    ("shape", "bits", "group", "message"),
    [
        ((1, 1, 32, 64), 3, 32, "bits must be one of 2, 4, 8, got 3"),
        ((1, 1, 33, 64), 4, 32, "group must divide n, got group 32 and n 33"),
        ((1, 1, 32, 63), 4, 32, "multiple of 8"),
        ((1, 32, 64), 4, 32, r"\[B, H, n, d\]"),
    ],
)
def test_refusals(shape, bits, group, message):
    with pytest.raises(InputError, match=message):
        kv_quant.quantize_keys(torch.zeros(shape), bits, group)


def test_append_refuses_what_does_not_fit():
    buffers = kv_quant.quantize_keys(torch.zeros(1, 1, 32, 64), 4, 32, backend="reference")
    with pytest.raises(InputError, match="32 tokens at slot 32 do not fit into buffers of 32"):
        kv_quant.append_keys(torch.zeros(1, 1, 32, 64), *buffers, 32, 4, 32)
