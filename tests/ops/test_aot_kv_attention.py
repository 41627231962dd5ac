"""The decode attention compiles for GPUs that are not here, to the instructions it is built for."""

from __future__ import annotations

import functools
import re

import pytest
from ops.aot import ARCHITECTURES, SHARED_LIMIT, Binary, Variant, compile_all

MODULE = "ctxcomp_kernels.kv_attention."
TENSORS = ("q", "kc", "ks", "km", "vc", "vs", "vm", "channel", "valid", "tk", "tv", "tail_valid")
STRIDES = [
    *(f"{name}_{axis}" for name in ("q", "kc", "ks", "km", "vc", "vs", "vm", "tk", "tv") for axis in "bhn"),
    *(f"{name}_{axis}" for name in ("channel", "valid", "tail_valid") for axis in "bh"),
]
SIZES = "body_splits first_split share tail_share n m group value_group H Q rows n_rows d".split()


def split(*, bits=4, value_bits=4, d=128, dtype="bf16", rows=16, warps=1, groups=1, per_token=False, masked=False):
    """``split_kernel`` as the launcher calls it on a contiguous cache, with the default configuration."""
    pointers = {f"{name}_ptr": f"*{dtype}" for name in TENSORS}
    pointers |= {"kc_ptr": "*u8", "vc_ptr": "*u8", "acc_ptr": "*fp32", "lse_ptr": "*fp32"}
    pointers |= {"valid_ptr": "*i1", "tail_valid_ptr": "*i1"} if masked else {}
    types = {**pointers, **dict.fromkeys([*STRIDES, *SIZES], "i32"), "scale": "fp32"}
    widths = [max(16, 1 << (d * width // 8 - 1).bit_length()) for width in (bits, value_bits)]
    constants = {
        "KEY_BITS": bits, "VALUE_BITS": value_bits, "KEYS_PER_TOKEN": per_token, "VALUE_GROUPS": groups,
        "HAS_CHANNEL": False, "HAS_VALID": masked, "HAS_TAIL_VALID": masked, "CAUSAL": rows > 16,
        "EVEN": widths == [d * bits // 8, d * value_bits // 8], "DTYPE": dtype, "ASM": True, "M": rows, "N": 32,
        "TAIL_N": 32, "WK": widths[0], "WV": widths[1], "D": 1 << (d - 1).bit_length(), "vs_n": groups, "vm_n": groups,
    }  # fmt: skip
    constants |= {"Q": 1} if rows == 16 else {}  # Triton makes an argument of 1 a constant
    options = {"num_warps": warps, "num_stages": 3, "enable_fp_fusion": True}
    return Variant(f"{MODULE}fused:split_kernel", types, constants, (*STRIDES, "d", "group"), options)


SPLITS = {
    "4-bit": split(),
    "4-bit-fp16": split(dtype="fp16"),
    "2-bit": split(bits=2, value_bits=2),
    "8-bit-fp16": split(bits=8, value_bits=8, dtype="fp16", warps=2, per_token=True, masked=True),
    "key-4-value-2-d-64": split(value_bits=2, d=64, dtype="fp16"),
    "odd-d": split(d=96),
    "value-groups": split(groups=4, warps=2),
    "d-256": split(d=256, warps=4),
    "64-rows": split(rows=64, warps=4),
}
MERGE = Variant(
    f"{MODULE}splits:merge_kernel",
    {"acc_ptr": "*fp32", "lse_ptr": "*fp32", "out_ptr": "*bf16", "out_lse_ptr": "*fp32", "splits": "i32",
     "n_rows": "i32", "d": "i32"},
    {"S": 16, "D": 128},
    ("d",),
)  # fmt: skip


@functools.cache
def compiled(arch: int) -> dict[str, Binary]:
    """All variants on the middle architecture, the ones that matter most on the others."""
    some = {name: SPLITS[name] for name in ("4-bit", "2-bit")}
    return compile_all({**SPLITS, "merge": MERGE} if arch == 90 else some, arch)


def loops(binary: Binary) -> list[str]:
    """The stretches of PTX between labels, the longest ones first."""
    return sorted(binary.ptx.split("\n$L__BB"), key=len, reverse=True)


def body_loop(binary: Binary) -> str:
    """The loop over packed tokens: the stretch with the most code unpacking."""
    return max(loops(binary), key=lambda part: part.count("prmt.b32 a, t"))


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_resources_stay_in_bounds(arch):
    for name, binary in compiled(arch).items():
        assert binary.spilled <= 512, name  # around the loops, where queries are laid out and results written
        assert binary.shared <= SHARED_LIMIT[arch] // 3, name  # three programs on a multiprocessor at the least


@pytest.mark.parametrize("arch", [80, 90])
def test_the_loop_over_packed_tokens_hardly_touches_local_memory(arch):
    binary = compile_all({"4-bit": SPLITS["4-bit"]}, arch, sass=True)["4-bit"]
    body = max(binary.sass.split("LBB"), key=lambda part: part.count("PRMT"))
    assert body.count("HMMA") >= 72
    assert body.count("\n") <= 1400  # for 32 tokens: 5.5 instructions a lane and code
    assert body.count("LDL") + body.count("STL") <= 24


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_both_products_run_on_tensor_cores(arch):
    for name, binary in compiled(arch).items():
        if name != "merge":
            kind = "f16" if SPLITS[name].constants["DTYPE"] == "fp16" else "bf16"
            pattern = rf"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.{kind}\.{kind}|wgmma\.mma_async|tcgen05\.mma"
            assert binary.count(pattern) >= 2, name


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_codes_become_numbers_by_their_bits_four_at_a_time(arch):
    for name, binary in compiled(arch).items():
        if name != "merge":
            loop = body_loop(binary)
            assert loop.count("prmt.b32 a, t, 0x43434343") + loop.count("prmt.b32 a, t, 0x64646464") >= 8, name
            assert not re.search(r"cvt\.rn\.b?f16\.[su]", loop), name


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_packed_tokens_are_copied_wide_and_not_unpacked_in_shared_memory(arch):
    for name in ("4-bit", "2-bit"):
        binary = compiled(arch)[name]
        assert binary.count(r"cp\.async\.cg\.shared\.global(\.L2::cache_hint)? \[.*\], \[.*\], 0x10"), name
        assert len(re.findall(r"st\.shared", body_loop(binary))) <= 16, name  # scales only; codes would be 64 or more
        if arch > 80:
            assert binary.count("evict_first"), name
