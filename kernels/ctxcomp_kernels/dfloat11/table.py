"""A canonical Huffman code over the 256 exponents, at most ``LIMIT`` bits long, and its lookup table."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import torch
from torch import Tensor

from ctxcomp.errors import InputError

LIMIT = 12  # a lookup table of 2**12 entries (8 KiB) fits an L1 cache, and a gap below 12 fits 4 bits
SYMBOLS = 256


@dataclass(frozen=True, eq=False)
class Table:
    """One code, shared by as many weights as were counted for it.

    lengths: uint8 [256], bits of each exponent's code, 0 where the exponent has none. All else follows from it.
    lookup: int16 [2**LIMIT]: for the next ``LIMIT`` bits of a stream, ``exponent << 4 | length`` of the first code.
    """

    lengths: Tensor
    lookup: Tensor

    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self.lengths.numel() + 2 * self.lookup.numel()


def histogram(weight: Tensor) -> Tensor:
    """How often each exponent occurs in a bfloat16 tensor, int64 [256], on the CPU; sums over weights share a table.

    Raises
    ------
    InputError: the tensor is not bfloat16.
    """
    return torch.bincount(split(weight)[0].int(), minlength=SYMBOLS).cpu()


def split(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Exponents and (sign << 7 | mantissa) of a bfloat16 tensor, both uint8 [n], in storage order.

    Raises
    ------
    InputError: the tensor is not bfloat16.
    """
    if weight.dtype != torch.bfloat16:
        raise InputError(f"dfloat11 holds bfloat16 weights, got {weight.dtype}: convert first, which may lose bits")
    bits = weight.detach().contiguous().reshape(-1).view(torch.int16)
    return ((bits >> 7) & 0xFF).to(torch.uint8), ((bits >> 8) & 0x80 | bits & 0x7F).to(torch.uint8)


def code_table(counts: Tensor) -> Table:
    """The code for exponents that occur ``counts`` [256] times; an exponent with count 0 cannot be encoded."""
    lengths = torch.tensor(_limited_lengths(counts.tolist()), dtype=torch.uint8)
    return table_of(lengths)


def table_of(lengths: Tensor) -> Table:
    """The table that belongs to code lengths [256]: codes ascend by length, then by exponent (canonical)."""
    lookup = torch.ones(1 << LIMIT, dtype=torch.int16)  # no entry of length 0: decoding always moves on
    plain = lengths.cpu()
    for symbol, code in codes_of(plain).items():
        length = int(plain[symbol])
        start = code << (LIMIT - length)
        entry = symbol << 4 | length
        lookup[start : start + (1 << (LIMIT - length))] = entry
    return Table(lengths, lookup.to(lengths.device))


def codes_of(lengths: Tensor) -> dict[int, int]:
    """The canonical code of each exponent that has one, as a number of ``lengths[exponent]`` bits."""
    used = sorted((int(length), symbol) for symbol, length in enumerate(lengths.tolist()) if length)
    codes: dict[int, int] = {}
    code, before = 0, 0
    for length, symbol in used:
        code <<= length - before
        codes[symbol] = code
        code, before = code + 1, length
    return codes


def _limited_lengths(counts: list[int]) -> list[int]:
    """Huffman code lengths, from counts flattened until no code is longer than ``LIMIT``."""
    while True:
        lengths = _huffman(counts)
        if max(lengths) <= LIMIT:
            return lengths
        counts = [(count + 1) // 2 for count in counts]


def _huffman(counts: list[int]) -> list[int]:
    """Length of each symbol's Huffman code; a single symbol gets one bit, an absent one 0."""
    lengths = [0] * len(counts)
    heap: list[tuple[int, int, tuple[int, ...]]] = [
        (count, symbol, (symbol,)) for symbol, count in enumerate(counts) if count
    ]
    if len(heap) == 1:
        lengths[heap[0][1]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        left, right = heapq.heappop(heap), heapq.heappop(heap)
        members = left[2] + right[2]
        for symbol in members:
            lengths[symbol] += 1
        heapq.heappush(heap, (left[0] + right[0], left[1], members))
    return lengths
