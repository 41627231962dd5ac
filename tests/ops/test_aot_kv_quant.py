"""Quantize-and-append compiles for GPUs that are not here."""

from __future__ import annotations

import functools

import pytest
from ops.aot import ARCHITECTURES, Binary, Variant, compile_all

STRIDES = [f"{name}_{axis}" for name in "xcsm" for axis in "bhn"]
TYPES = {
    "x_ptr": "*bf16", "codes_ptr": "*u8", "scale_ptr": "*bf16", "minimum_ptr": "*bf16", "start_ptr": "*i64",
    **dict.fromkeys(["offset", "H", "n", "width", "rows", *STRIDES], "i32"),
}  # fmt: skip


def append(by_token: bool, bits: int) -> Variant:
    constants = {"HAS_START": True, "BY_TOKEN": by_token, "BITS": bits, "ROWS": 32, "WIDTH": 128}
    constants |= {f"{name}_d": 1 for name in "xcsm"}
    divisible = ("width", "rows", "x_n", "x_h", "x_b", "c_n", "c_h", "c_b")
    return Variant("ctxcomp_kernels.kv_quant.fused:append_kernel", TYPES, constants, divisible, {"num_warps": 4})


VARIANTS = {"keys": append(False, 4), "values": append(True, 2)}


@functools.cache
def compiled(arch: int) -> dict[str, Binary]:
    return compile_all(VARIANTS, arch)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_reads_and_writes_are_wide_and_nothing_spills(arch):
    for name, binary in compiled(arch).items():
        assert binary.count(r"ld\.global\.v4\.b32"), name
        assert binary.count(r"st\.global\.(v2\.b32|v4\.b32|b32)"), name
        assert binary.count(r"div\.rn\.f32"), name  # the reference's division, to the last bit
        assert binary.spilled == 0, name
        assert binary.registers <= 128, name
