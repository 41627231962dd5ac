"""Triton kernels of the packing; ``load_codes`` is shared with the kernels that decode dense words."""
# ruff: noqa: ANN001, ANN201, D103, N803
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_K, BLOCK_N = 16, 32


@triton.jit
def load_codes(packed, n, index, column, inside, BITS: tl.constexpr):
    """The codes at ``index`` [BK] of the rows ``column`` [BN]: int32 [BK, BN]; ``inside`` [BK, BN] masks."""
    word = index * BITS // 32
    shift = (index * BITS % 32).to(tl.uint32)[:, None]
    address = packed + word[:, None] * n + column[None, :]
    code = tl.load(address, mask=inside, other=0).to(tl.uint32, bitcast=True) >> shift
    if 32 % BITS != 0:
        crosses = inside & (shift + BITS > 32)
        rest = tl.load(address + n, mask=crosses, other=0).to(tl.uint32, bitcast=True)
        code |= rest << ((32 - shift) & 31)
    return (code & ((1 << BITS) - 1)).to(tl.int32)


@triton.jit
def pack_kernel(codes, packed, n, k, words, BITS: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_N: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * BLOCK_W + tl.arange(0, BLOCK_W)
    column = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    word = tl.zeros([BLOCK_W, BLOCK_N], tl.int32)
    for i in tl.static_range((32 + 2 * BITS - 2) // BITS):  # all codes that reach into a word
        index = row * 32 // BITS + i
        shift = (index * BITS - row * 32).to(tl.int32)  # negative: the code began in the word before
        inside = ((index < k) & (shift < 32))[:, None] & (column < n)[None, :]
        code = tl.load(codes + column[None, :] * k + index[:, None], mask=inside, other=0).to(tl.int32)
        word |= (code << tl.minimum(tl.maximum(shift, 0), 31)[:, None]) >> tl.maximum(-shift, 0)[:, None]
    tl.store(packed + row[:, None] * n + column[None, :], word, mask=(row < words)[:, None] & (column < n)[None, :])


@triton.jit
def unpack_kernel(packed, codes, n, k, BITS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    column = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (index < k)[:, None] & (column < n)[None, :]
    code = load_codes(packed, n, index, column, inside, BITS)
    tl.store(codes + column[None, :] * k + index[:, None], code.to(tl.uint8), mask=inside)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes uint8 ``[N, K]`` as words int32 ``[ceil(K * bits / 32), N]``."""
    n, k = codes.shape
    words = -(-k * bits // 32)
    packed = torch.empty(words, n, dtype=torch.int32, device=codes.device)
    if packed.numel():
        grid = (triton.cdiv(words, BLOCK_K), triton.cdiv(n, BLOCK_N))
        pack_kernel[grid](codes.contiguous(), packed, n, k, words, bits, BLOCK_K, BLOCK_N, enable_fp_fusion=True)
    return packed


def unpack(packed: Tensor, bits: int, k: int) -> Tensor:
    """Words int32 ``[ceil(K * bits / 32), N]`` as codes uint8 ``[N, K]``."""
    n = packed.shape[1]
    codes = torch.empty(n, k, dtype=torch.uint8, device=packed.device)
    if codes.numel():
        grid = (triton.cdiv(k, BLOCK_K), triton.cdiv(n, BLOCK_N))
        unpack_kernel[grid](packed.contiguous(), codes, n, k, bits, BLOCK_K, BLOCK_N, enable_fp_fusion=True)
    return codes
