"""Codes in a word to floating-point numbers, two at a time: pieces of the kernels in ``fused``.

A word of ``P = 32 / bits`` codes holds codes ``j`` and ``j + P / 2`` sixteen bits apart. One ``lop3`` masks both and
puts them into the mantissas of two halves, ``up`` bits from their ends: float16 ``1024 + code * 2**up`` (bfloat16:
128 + code). One fused multiply-add with ``2**-up`` and minus ``(1024 * 2**-up + zero)`` leaves ``code - zero``,
exactly. So nothing is ever converted from an integer, and codes in the lower byte of a half need no shift.
Source: FasterTransformer's trick (Kim et al., "Who Says Elephants Can't Run", 2022), as Marlin uses it.
"""
# ruff: noqa: ANN001, ANN201, N803, N806, SIM300
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

LUT_AND_OR = "0xEA"  # lop3: (a & b) | c


@triton.constexpr_function
def position(bits, j, kind):
    """How far code ``j`` is shifted down, and how far up it then lies in its half (bfloat16 has no room for that)."""
    return (bits * j, 0) if kind == "b" else (bits * j // 8 * 8, bits * j % 8)


@triton.constexpr_function
def kind_of(dtype):
    """The letter of a type below: "f" float32, "h" float16, "b" bfloat16."""
    return {tl.float32: "f", tl.float16: "h", tl.bfloat16: "b"}[dtype]


@triton.constexpr_function
def negative_bias(bits, j, kind):
    """Both halves of minus the number that stands for code 0, as int32."""
    half = 0xC300 if kind == "b" else 0xE400 - (position(bits, j, kind)[1] << 10)
    return (half << 16 | half) - (1 << 32)


@triton.constexpr_function
def pair_asm(bits, j, kind):
    """PTX from word ``$2`` and negated zeros ``$3`` to codes ``j`` and ``j + P / 2`` as ``kind``."""
    down, up = position(bits, j, kind)
    field = ((1 << bits) - 1) << up
    magic, form = ("0x43004300", "bf16x2") if kind == "b" else ("0x64006400", "f16x2")
    one = 0x3F80 if kind == "b" else 0x3C00 - (up << 10)
    lines = [
        ".reg .b32 t, one;",
        f"shr.u32 t, $2, {down};" if down else "mov.b32 t, $2;",
        f"lop3.b32 t, t, 0x{field | field << 16:08X}, {magic}, {LUT_AND_OR};",
        f"mov.b32 one, 0x{one | one << 16:08X};",
        f"fma.rn.{form} t, t, one, $3;",
    ]
    if kind == "f":
        lines += [".reg .b16 low, high;", "mov.b32 {low, high}, t;", "cvt.f32.f16 $0, low;", "cvt.f32.f16 $1, high;"]
    else:
        lines.append("mov.b32 {$0, $1}, t;")
    return "\n\t".join(["{", *lines, "}"])


@triton.jit
def pair(word, zero, J: tl.constexpr, BITS: tl.constexpr, DTYPE: tl.constexpr, ASM: tl.constexpr):
    """Codes ``J`` and ``J + P / 2`` of each word, minus the zeros (int32, broadcast to the words); in ``DTYPE``."""
    if ASM:
        KIND: tl.constexpr = kind_of(DTYPE)
        UP: tl.constexpr = position(BITS, J, KIND)[1]
        minus = ((zero | (zero << 16)) << UP) | negative_bias(BITS, J, KIND)
        if DTYPE == tl.float32:
            low, high = tl.inline_asm_elementwise(
                pair_asm(BITS, J, KIND), "=f,=f,r,r", [word, minus], (tl.float32, tl.float32), True, 1
            )
        elif DTYPE == tl.float16:
            low, high = tl.inline_asm_elementwise(
                pair_asm(BITS, J, KIND), "=h,=h,r,r", [word, minus], (tl.float16, tl.float16), True, 1
            )
        else:
            low, high = tl.inline_asm_elementwise(
                pair_asm(BITS, J, KIND), "=h,=h,r,r", [word, minus], (tl.bfloat16, tl.bfloat16), True, 1
            )
    else:  # through float32: the interpreter's conversion of an integer to bfloat16 is wrong
        low = (((word >> (BITS * J)) & ((1 << BITS) - 1)) - zero).to(tl.float32).to(DTYPE)
        high = (((word >> (BITS * J + 16)) & ((1 << BITS) - 1)) - zero).to(tl.float32).to(DTYPE)
    return low, high
