"""The inline assembly that turns codes into numbers, run here instruction by instruction for every code and zero.

Triton's interpreter cannot run inline assembly, so this is what proves it without a GPU.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch


@pytest.fixture
def decode():
    # Not at the top: what is imported before the interpreter is switched on would stay compiled for other tests.
    from ctxcomp_kernels.wna16 import decode

    return decode


def plain(function):
    """The Python function inside a ``triton.constexpr_function``."""
    return getattr(function, "fn", None) or function.__wrapped__


def halves(words, kind):
    """The two 16-bit floats of each 32-bit word, as float64 [n, 2]."""
    pairs = torch.from_numpy(words.astype(np.uint32).view(np.int16).reshape(-1, 2).copy())
    return pairs.view(torch.bfloat16 if kind == "bf16x2" else torch.float16).double().numpy()


def words_of(values, kind):
    narrow = torch.from_numpy(values).to(torch.bfloat16 if kind == "bf16x2" else torch.float16)
    return narrow.view(torch.int16).numpy().view(np.uint32).reshape(-1)


def run(assembly, word, minus):
    """What the PTX of ``pair_asm`` computes from registers $2 and $3: both results as float64."""
    registers = {"$2": word, "$3": minus}
    for line in (part.strip() for part in assembly.strip("{}").split(";")):
        name, _, rest = line.partition(" ")
        operands = [operand.strip() for operand in re.split(r",(?![^{]*\})", rest)]
        value = [registers.get(o, None if not re.match(r"\d", o) else np.uint32(int(o, 0))) for o in operands]
        if name == "shr.u32":
            registers[operands[0]] = value[1] >> value[2]
        elif name == "mov.b32" and operands[0] != "{low, high}" and operands[0] != "{$0, $1}":
            registers[operands[0]] = np.broadcast_to(value[1], word.shape)
        elif name == "lop3.b32":
            assert operands[4] == "0xEA"
            registers[operands[0]] = value[1] & value[2] | value[3]
        elif name.startswith("fma.rn."):
            kind = name.removeprefix("fma.rn.")
            a, b, c = (halves(np.ascontiguousarray(v), kind) for v in value[1:])
            registers[operands[0]] = words_of(a * b + c, kind)
            low_high = halves(registers[operands[0]], kind)
        else:
            assert name in (".reg", "cvt.f32.f16", "mov.b32", ""), line
    return low_high


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ["f", "h", "b"])
def test_every_code_and_zero_decodes_exactly(bits, kind, decode):
    if kind == "b" and bits == 8:
        pytest.skip("codes of 8 bits reach bfloat16 through float32")
    levels, per_word = 1 << bits, 32 // bits
    code, zero = (part.ravel().astype(np.int64) for part in np.meshgrid(np.arange(levels), np.arange(levels)))
    other = (code * 7 + 3) % levels  # what the neighbours hold must not matter
    for j in range(per_word // 2):
        up = plain(decode.position)(bits, j, kind)[1]
        bias = plain(decode.negative_bias)(bits, j, kind)
        minus = ((((zero | zero << 16) << up) | bias) & 0xFFFFFFFF).astype(np.uint32)
        word = np.zeros_like(code)
        for position in range(per_word):
            word |= (code if position in (j, j + per_word // 2) else other) << (bits * position)
        both = run(plain(decode.pair_asm)(bits, j, kind), word.astype(np.uint32), minus)
        assert (both == (code - zero)[:, None]).all()


def test_the_types_have_letters(decode):

    import triton.language as tl

    letters = plain(decode.kind_of)
    assert [letters(kind) for kind in (tl.float32, tl.float16, tl.bfloat16)] == ["f", "h", "b"]
