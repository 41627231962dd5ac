"""Packed codes to floating-point tiles, plane by plane: a piece of the kernels in ``fused``.

A byte holds P = 8 / bits codes; plane j of a tile of bytes [N, W] is code j of each byte, channels j, P + j, 2 P + j...
Each plane enters a product of its own. So no code ever moves between threads: bytes travel from memory to the registers
in which the tensor cores want them, and are taken apart there. What meets them (queries, scales) is loaded by plane.

The float16 and bfloat16 paths build numbers from bits, four codes at a time: a byte under the exponent of 1024 (of 128)
is 1024 + code (128 + code), exactly (FasterTransformer's trick; here one ``prmt`` both spreads and tags the bytes).
"""
# ruff: noqa: ANN001, ANN201, N803, N806, RUF005, SIM300
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator, assignment"

from __future__ import annotations

import triton
import triton.language as tl


@triton.constexpr_function
def plane_asm(bits, j, kind):
    """PTX from four bytes ``$2`` to their codes ``j`` in ``$0``, ``$1``, as ``kind`` ("f16" or "bf16")."""
    tag = "0x64646464" if kind == "f16" else "0x43434343"
    if kind == "f16":
        constants = "mov.b32 c, 0xE400E400;"
        subtract = "add.rn.f16x2 $0, a, c; add.rn.f16x2 $1, b, c;"
    else:
        constants = ".reg .b32 one; mov.b32 one, 0x3F803F80; mov.b32 c, 0xC300C300;"
        subtract = "fma.rn.bf16x2 $0, a, one, c; fma.rn.bf16x2 $1, b, one, c;"
    shift = f"shr.u32 t, $2, {bits * j};" if j else "mov.b32 t, $2;"
    mask = f"and.b32 t, t, 0x{((1 << bits) - 1) * 0x01010101:08X};" if bits < 8 else ""
    spread = f"prmt.b32 a, t, {tag}, 0x4140; prmt.b32 b, t, {tag}, 0x4342;"
    return f"{{ .reg .b32 t, a, b, c; {constants} {shift} {mask} {spread} {subtract} }}"


@triton.jit
def plane(packed, J: tl.constexpr, BITS: tl.constexpr, DTYPE: tl.constexpr, ASM: tl.constexpr):
    """Code ``J`` of each byte of a uint8 tile, in ``DTYPE``, exact."""
    if ASM and DTYPE == tl.float16:
        codes = tl.inline_asm_elementwise(plane_asm(BITS, J, "f16"), "=r,=r,r", [packed], tl.float16, True, 4)
    elif ASM and DTYPE == tl.bfloat16 and BITS < 8:  # 128 + code holds no code of 8 bits
        codes = tl.inline_asm_elementwise(plane_asm(BITS, J, "bf16"), "=r,=r,r", [packed], tl.bfloat16, True, 4)
    else:
        codes = ((packed >> (J * BITS)) & ((1 << BITS) - 1)).to(DTYPE)
    return codes


@triton.jit
def zeros(P: tl.constexpr, M: tl.constexpr, W: tl.constexpr):
    """One accumulator [M, W] a plane."""
    planes = ()
    for _ in tl.static_range(P):
        planes = planes + (tl.zeros((M, W), tl.float32),)
    return planes


@triton.jit
def load_rows(at, row_ok, d, P: tl.constexpr, W: tl.constexpr, DTYPE: tl.constexpr):
    """Rows of d channels, plane by plane: P tiles [M, W]."""
    planes = ()
    for j in tl.static_range(P):
        channel = tl.arange(0, W) * P + j
        ok = row_ok[:, None] & (channel < d)[None, :]
        planes = planes + (tl.load(at + channel[None, :], mask=ok, other=0.0).to(DTYPE),)
    return planes


@triton.jit
def query_dot(q, packed, ks_ptr, km_ptr, d, BITS: tl.constexpr, SCALED: tl.constexpr, DTYPE, ASM, M, N):
    """Logits [M, N] of queries (planes [M, W]) on packed keys [N, W]: bare codes, or SCALED by a group."""
    P: tl.constexpr = 8 // BITS
    logits = tl.zeros((M, N), tl.float32)
    zero = tl.zeros((M,), tl.float32)
    for j in tl.static_range(P):
        x = q[j]
        if SCALED:
            channel = tl.arange(0, packed.shape[1]) * P + j
            ks = tl.load(ks_ptr + channel, mask=channel < d, other=0.0).to(tl.float32)
            km = tl.load(km_ptr + channel, mask=channel < d, other=0.0).to(tl.float32)
            if km_ptr.dtype.element_ty == DTYPE:  # exact in a product: no thread has to sum over others
                spread = tl.broadcast_to(km.to(DTYPE)[:, None], (km.shape[0], 16))
                zero += tl.max(tl.dot(x, spread, input_precision="ieee"), 1)
            else:
                zero += tl.sum(x.to(tl.float32) * km[None, :], 1)
            x = (x.to(tl.float32) * ks[None, :]).to(DTYPE)
        codes = plane(packed, j, BITS, DTYPE, ASM)
        logits = tl.dot(x, tl.trans(codes), logits, input_precision="ieee")
    return logits + zero[:, None]


@triton.jit
def add_values(acc, factor, weights, packed, BITS: tl.constexpr, DTYPE, ASM):
    """Planes [M, W] times ``factor`` [M], plus weights [M, N] times the bare codes of packed values [N, W]."""
    planes = ()
    x = weights.to(DTYPE)
    for j in tl.static_range(8 // BITS):
        codes = plane(packed, j, BITS, DTYPE, ASM)
        planes = planes + (tl.dot(x, codes, acc[j] * factor[:, None], input_precision="ieee"),)
    return planes


@triton.jit
def add_grouped_values(acc, factor, weights, packed, vs_at, vm_at, there, group, d, BITS: tl.constexpr, DTYPE, ASM):
    """As ``add_values``, where a token has several value groups: scale and minimum [N, d/group] enter the codes."""
    P: tl.constexpr = 8 // BITS
    planes = ()
    x = weights.to(DTYPE)
    for j in tl.static_range(P):
        channel = tl.arange(0, packed.shape[1]) * P + j
        inside = there[:, None] & (channel < d)[None, :]
        vs = tl.load(vs_at[:, None] + (channel // group)[None, :], mask=inside, other=0.0).to(tl.float32)
        vm = tl.load(vm_at[:, None] + (channel // group)[None, :], mask=inside, other=0.0).to(tl.float32)
        values = plane(packed, j, BITS, DTYPE, ASM).to(tl.float32) * vs + vm
        planes = planes + (tl.dot(x, values.to(DTYPE), acc[j] * factor[:, None], input_precision="ieee"),)
    return planes
