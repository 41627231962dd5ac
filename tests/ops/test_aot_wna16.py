"""Every kernel of the packed linear layer compiles for GPUs that are not here, to the instructions it is built for."""

from __future__ import annotations

import functools

import pytest
from ops.aot import ARCHITECTURES, SHARED_LIMIT, Binary, Variant, compile_all

from ctxcomp_kernels.wna16 import config

MODULE = "ctxcomp_kernels.wna16.fused:"
PACK = "ctxcomp_kernels.pack.fused:"


def product(m, *, bits=4, dtype="fp16", zeros=True, group=16, even=True, split=1, bias=False, **changes):
    """One of the two matrix kernels as ``fused.linear`` launches it, with the default configuration for M rows."""
    chosen = {**vars(config.pick("default", m, 4096, 4096)), **changes}
    kernel, stages = chosen["kernel"], chosen["stages"]
    types = {"x": "*i64", "packed": "*i32", "scales": f"*{dtype}", "zeros": "*u8", "bias": f"*{dtype}", "n": "i32",
             "m": "i32", "words": "i32", "out": "*fp32" if split > 1 else f"*{dtype}"}  # fmt: skip
    constants = {"BITS": bits, "GROUP": group, "EVEN": even, "SPLIT_K": split, "BLOCK_N": chosen["block_n"],
                 "BLOCK_W": chosen["block_w"], "STAGES": stages, "DTYPE": dtype, "ASM": True}  # fmt: skip
    constants |= {"M": m} if kernel == "gemv" else {"BLOCK_M": max(16, m)}
    constants |= {name: None for name, there in (("zeros", zeros), ("bias", bias)) if not there}
    options = {"num_warps": chosen["warps"], "num_stages": stages, "enable_fp_fusion": True}
    return Variant(f"{MODULE}{kernel}_kernel", types, constants, ("n", "words"), options)


PRODUCTS = {
    "gemv": product(1),
    "gemv-plain-loads": product(1, stages=1),
    "gemv-shared-group": product(1, block_w=8, block_n=128, stages=1),
    "gemv-symmetric": product(1, zeros=False),
    "gemv-odd": product(1, even=False, bias=True),
    "gemv-split": product(1, split=4),
    "gemv-bf16": product(1, dtype="bf16"),
    "gemv-fp32": product(2, dtype="fp32", kernel="gemv"),
    "gemv-2-bit": product(1, bits=2, group=8),
    "gemv-8-bit": product(1, bits=8, group=32),
    "gemv-2-rows": product(2),
    "dot": product(16),
    "dot-small-group": product(16, group=4),
    "dot-odd": product(16, even=False, bias=True),
    "dot-split": product(16, split=4),
    "dot-bf16": product(16, dtype="bf16"),
    "dot-2-bit": product(16, bits=2),
    "dot-8-bit-bf16": product(16, bits=8, dtype="bf16"),
    "dot-64-rows": product(64),
}
OTHERS = {
    "reduce": Variant(
        f"{MODULE}reduce_kernel",
        {"parts": "*fp32", "out": "*fp16", "size": "i32", "n": "i32"},
        {"bias": None, "SPLIT_K": 4, "BLOCK": 1024},
    ),
    "dequantize-3-bit": Variant(
        f"{MODULE}dequantize_kernel",
        {"packed": "*i32", "scales": "*fp16", "zeros": "*u8", "out": "*fp16", "n": "i32", "k": "i32",
         "group_size": "i32"},
        {"BITS": 3, "BLOCK_K": 32, "BLOCK_N": 128},
        ("n", "k"),
    ),
    "pack": Variant(
        f"{PACK}pack_kernel",
        {"codes": "*u8", "packed": "*i32", "n": "i32", "k": "i32", "words": "i32"},
        {"BITS": 4, "BLOCK_W": 16, "BLOCK_N": 32},
    ),
    "unpack": Variant(
        f"{PACK}unpack_kernel",
        {"packed": "*i32", "codes": "*u8", "n": "i32", "k": "i32"},
        {"BITS": 4, "BLOCK_K": 16, "BLOCK_N": 32},
    ),
}  # fmt: skip


@functools.cache
def compiled(arch: int) -> dict[str, Binary]:
    """All variants on the middle architecture, the ones that matter most on the others: a second each."""
    some = {name: PRODUCTS[name] for name in ("gemv", "gemv-plain-loads", "dot", "dot-bf16", "dot-64-rows")}
    return compile_all(PRODUCTS | OTHERS if arch == 90 else some, arch)


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_resources_stay_in_bounds(arch):
    for name, binary in compiled(arch).items():
        assert binary.registers <= 224, name  # two programs of four warps
        assert binary.spilled <= 32, name  # a few bytes of stack are not spilling in the loop
        assert binary.shared <= SHARED_LIMIT[arch] // 2, name  # two programs on a multiprocessor at the least


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_codes_become_numbers_without_conversion(arch):
    for name, binary in compiled(arch).items():
        if name in PRODUCTS:
            bits = PRODUCTS[name].constants["BITS"]
            assert binary.count(r"lop3\.b32 t, t, .*0xEA;") >= 16 // bits, name
            assert not binary.count(r"cvt\.rn\.(f32|f16|bf16)\.[su](8|16|32)\b"), name


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_weights_are_read_wide_and_leave_the_cache_first(arch):
    wide = r"cp\.async\.cg\.shared\.global(\.L2::cache_hint)? \[.*\], \[.*\], 0x10"
    plain = r"ld\.global\.L1::evict_first\.L2::cache_hint\.v4\.b32"
    for name, binary in compiled(arch).items():
        if name in PRODUCTS:
            assert binary.count(f"{wide}|{plain}"), name
            if arch > 80 or "plain" in name:  # for sm_80 Triton leaves the hint off asynchronous copies
                assert binary.count("evict_first"), name


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_matrix_units_are_used(arch):
    for name, binary in compiled(arch).items():
        if name.startswith("dot"):
            used = binary.count(r"mma\.sync|wgmma\.mma_async|tcgen05\.mma")
            assert used, name
    assert compiled(arch)["dot"].count(r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.f16\.f16\.f32") >= 8
    assert compiled(arch)["dot-bf16"].count(r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.bf16\.bf16\.f32") >= 8


def test_the_matrix_vector_loop_neither_converts_layouts_nor_meets_at_barriers():
    binary = compiled(90)["gemv-plain-loads"]
    body = max(binary.ptx.split("\n$L__BB"), key=lambda part: part.count("lop3"))
    assert body.count("fma.rn.f32") >= 64
    assert "bar.sync" not in body
    assert "st.shared" not in body
