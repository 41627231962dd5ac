"""The specification of DFloat11: encoding in torch, decoding vectorised over 64-bit chunks.

Source: DFloat11 (Zhang et al., 2025): the exponents of bfloat16 weights under a Huffman code, sign and mantissa apart;
each thread decodes one 8-byte chunk, from the bit where its first code starts (``gaps``), and each block of threads
writes from its own output position. Deviation: codes are limited to 12 bits, so one flat table decodes them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctxcomp.errors import InputError, ModelError
from ctxcomp_kernels.dfloat11.table import LIMIT, Table, codes_of

CHUNK_BITS = 64
BLOCK_CHUNKS = 256
ENCODED_AT_ONCE = 1 << 20  # weights; bounds the int64 temporaries to about 50 MiB
DECODED_AT_ONCE = 1 << 15  # chunks
_WORD_MASK = (1 << LIMIT) - 1


def encode_stream(exponents: Tensor, table: Table) -> tuple[Tensor, Tensor, Tensor]:
    """Concatenate the codes of exponents uint8 [n], on the CPU.

    Returns
    -------
    stream: int64 [chunks + 1]; bit i is bit ``63 - i % 64`` of word ``i // 64``; the last word is padding.
    gaps: uint8 [ceil(chunks / 2)], 4 bits a chunk, low first: bits before the first code that starts in the chunk.
    positions: int64 [ceil(chunks / 256) + 1]: index of the first weight of each block of 256 chunks, and n.

    Raises
    ------
    InputError: an exponent has no code in the table.
    """
    n = exponents.numel()
    lengths = table.lengths.cpu().long()
    counts = torch.bincount(exponents.int(), minlength=256)
    if bool(((counts > 0) & (lengths == 0)).any()):
        raise InputError("the table has no code for some exponents: count these weights into its histogram")
    codes = torch.zeros(256, dtype=torch.int64)
    for symbol, code in codes_of(table.lengths).items():
        codes[symbol] = code
    chunks = -(-int((counts * lengths).sum()) // CHUNK_BITS)
    stream = torch.zeros(chunks + 1, dtype=torch.int64)
    gaps = torch.zeros(chunks + chunks % 2, dtype=torch.uint8)
    first = torch.full((chunks,), n, dtype=torch.int64)
    bit = 0
    for begin in range(0, n, ENCODED_AT_ONCE):
        part = exponents[begin : begin + ENCODED_AT_ONCE].int()
        length = lengths[part]
        ends = length.cumsum(0) + bit
        starts = ends - length
        _put(stream, codes[part], starts, length)
        _mark(gaps, first, starts, begin)
        bit = int(ends[-1])
    return stream, gaps[0::2] | gaps[1::2] << 4, torch.cat([first[::BLOCK_CHUNKS], torch.tensor([n])])


def _put(stream: Tensor, codes: Tensor, starts: Tensor, lengths: Tensor) -> None:
    """Write codes of ``lengths`` bits at bit ``starts``; bits never overlap, so adding is or-ing."""
    word = starts >> 6
    room = CHUNK_BITS - (starts & 63) - lengths
    stream.index_add_(0, word, torch.where(room >= 0, codes << room.clamp_min(0), codes >> (-room).clamp_min(0)))
    spilled = room < 0
    stream.index_add_(0, word[spilled] + 1, codes[spilled] << (CHUNK_BITS + room[spilled]))


def _mark(gaps: Tensor, first: Tensor, starts: Tensor, begin: int) -> None:
    """Note the first code that starts in each chunk; codes of an earlier part came first."""
    word = starts >> 6
    is_first = torch.ones_like(word, dtype=torch.bool)
    is_first[1:] = word[1:] != word[:-1]
    is_first[0] = first[word[0]] > begin
    index = is_first.nonzero().squeeze(1)
    gaps[word[index]] = (starts[index] & 63).to(torch.uint8)
    first[word[index]] = index + begin


def decode(sign_mantissa: Tensor, stream: Tensor, gaps: Tensor, positions: Tensor, lookup: Tensor) -> Tensor:
    """The bfloat16 weights [n], bit for bit: all chunks decode their k-th code together.

    ``positions`` is not needed here: chunks come in order. The shapes are those of ``encode_stream``.

    Raises
    ------
    ModelError: the stream holds fewer codes than there are weights: it is damaged.
    """
    n, chunks = sign_mantissa.numel(), stream.numel() - 1
    out = torch.empty(n, dtype=torch.int16, device=stream.device)
    nibbles = torch.stack([gaps & 15, gaps >> 4], dim=1).flatten()[:chunks]
    done = 0
    for begin in range(0, chunks, DECODED_AT_ONCE):
        part = slice(begin, min(begin + DECODED_AT_ONCE, chunks))
        exponents = _decode_chunks(stream[part.start : part.stop + 1], nibbles[part], lookup)[: n - done]
        signs = sign_mantissa[done : done + exponents.numel()].to(torch.int16)
        out[done : done + exponents.numel()] = (signs & 0x80) << 8 | exponents << 7 | signs & 0x7F
        done += exponents.numel()
    if done != n:
        raise ModelError(f"damaged DFloat11 data: {n} weights expected, {done} found in the stream: encode again")
    return out.view(torch.bfloat16)


def _decode_chunks(words: Tensor, gaps: Tensor, lookup: Tensor) -> Tensor:
    """Exponents of all codes that start in chunks [C] (``words`` is [C + 1]), in order, int16."""
    here, after = words[:-1], words[1:] >> (CHUNK_BITS - LIMIT) & _WORD_MASK
    at = gaps.long()
    symbols, inside = [], []
    while bool((at < CHUNK_BITS).any()):
        shift = at.clamp_max(CHUNK_BITS - 1)
        window = (here << shift) >> (CHUNK_BITS - LIMIT) & _WORD_MASK | after >> (CHUNK_BITS - shift).clamp_max(63)
        entry = lookup[window]
        symbols.append(entry >> 4)
        inside.append(at < CHUNK_BITS)
        at = at + (entry & 15)
    return torch.stack(symbols, dim=1)[torch.stack(inside, dim=1)]
