"""Specification of the packing: codes of 1 to 8 bits in 32-bit words along K, low bits first, no gaps.

Code ``k`` of a row takes the bits ``k * bits .. k * bits + bits - 1`` of that row's bit stream; word ``w`` holds the
bits ``32 w .. 32 w + 31``. The stream of 32 codes fills ``bits`` whole words, so everything below goes in such runs.
For 4 bits this is the layout of GPTQ's ``qweight``, and the transpose of compressed-tensors' ``weight_packed``.
"""

from __future__ import annotations

import torch
from torch import Tensor

RUN = 32


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes uint8 ``[N, K]`` as words int32 ``[ceil(K * bits / 32), N]``; what is left of the last word is 0."""
    n, k = codes.shape
    runs = -(-k // RUN)
    padded = torch.zeros(runs * RUN, n, dtype=torch.int32, device=codes.device)
    padded[:k] = codes.t()
    source = padded.view(runs, RUN, n)
    words = torch.zeros(runs, bits, n, dtype=torch.int32, device=codes.device)
    for i in range(RUN):
        word, shift = divmod(i * bits, 32)
        words[:, word] |= source[:, i] << shift
        if shift + bits > 32:
            words[:, word + 1] |= source[:, i] >> (32 - shift)
    return words.view(runs * bits, n)[: -(-k * bits // 32)].contiguous()


def unpack_columns(packed: Tensor, bits: int, k: int) -> Tensor:
    """Words int32 ``[ceil(K * bits / 32), N]`` as codes uint8 ``[K, N]``: the order they lie in."""
    runs, n = -(-k // RUN), packed.shape[1]
    words = packed.new_zeros(runs * bits, n)
    words[: packed.shape[0]] = packed
    source = words.view(runs, bits, n)
    codes = torch.empty(runs, RUN, n, dtype=torch.uint8, device=packed.device)
    mask = (1 << bits) - 1
    for i in range(RUN):
        word, shift = divmod(i * bits, 32)
        code = source[:, word] >> shift
        if shift + bits > 32:
            code = (code & ((1 << (32 - shift)) - 1)) | (source[:, word + 1] << (32 - shift))
        codes[:, i] = code & mask
    return codes.view(runs * RUN, n)[:k]


def unpack(packed: Tensor, bits: int, k: int) -> Tensor:
    """Words int32 ``[ceil(K * bits / 32), N]`` as codes uint8 ``[N, K]``: the inverse of ``pack``."""
    return unpack_columns(packed, bits, k).t().contiguous()
