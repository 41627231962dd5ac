"""Compression to bitmaps and attention over them compile for GPUs that are not here."""

from __future__ import annotations

import functools

import pytest
from ops.aot import ARCHITECTURES, SHARED_LIMIT, Binary, Variant, compile_all

MODULE = "ctxcomp_kernels.sparse_attention."
STRIDES = [
    *(f"{name}_{axis}" for name in ("q", "kb", "ko", "vb", "vo", "tk", "tv") for axis in "bhn"),
    *(f"{name}_{axis}" for name in ("valid", "tail_valid") for axis in "bh"),
]
SIZES = "body_splits share tail_share n m H Q rows n_rows d".split()
DENSE = {f"{name}_ptr": "*bf16" for name in ("q", "k", "v", "valid", "tk", "tv", "tail_valid")}
TYPES = {
    **DENSE, "kb_ptr": "*i64", "vb_ptr": "*i64", "ko_ptr": "*i32", "vo_ptr": "*i32", "acc_ptr": "*fp32",
    "lse_ptr": "*fp32", **dict.fromkeys([*STRIDES, *SIZES], "i32"), "scale": "fp32",
}  # fmt: skip
CONSTANTS = {"HAS_VALID": False, "HAS_TAIL_VALID": False, "CAUSAL": False, "DTYPE": "bf16", "ASM": True, "M": 16,
             "N": 32, "T": 2, "TILE": 64, "D": 128, "Q": 1}  # fmt: skip
ROWS = {"rows": "i32", "d": "i32", "tiles": "i32"}
WIDTHS = {"T": 2, "R": 16, "TILE": 64, "ALIGN": 8}
VARIANTS = {
    "attention": Variant(f"{MODULE}fused:sparse_split_kernel", TYPES, CONSTANTS, (*STRIDES, "d"),
                         {"num_warps": 4, "num_stages": 2}),
    "choose": Variant(f"{MODULE}compression:choose_kernel",
                      {"x_ptr": "*i16", "bitmap_ptr": "*i64", "units_ptr": "*i32", **ROWS, "count": "i32"},
                      {"BITS": 15, **WIDTHS}, ("d",)),
    "write": Variant(f"{MODULE}compression:write_kernel",
                     {"x_ptr": "*bf16", "bitmap_ptr": "*i64", "offsets_ptr": "*i32", "values_ptr": "*bf16", **ROWS},
                     WIDTHS, ("d",)),
}  # fmt: skip


@functools.cache
def compiled(arch: int) -> dict[str, Binary]:
    return compile_all(VARIANTS, arch)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_instructions_and_resources(arch):
    for name, binary in compiled(arch).items():
        assert binary.spilled <= 32, name
        assert binary.shared <= SHARED_LIMIT[arch] // 4, name
    attention = compiled(arch)["attention"]
    assert attention.count(r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.bf16\.bf16\.f32")
    assert attention.count(r"popc\.b64")
    assert compiled(arch)["choose"].count(r"ld\.global\.v[24]\.b32")
