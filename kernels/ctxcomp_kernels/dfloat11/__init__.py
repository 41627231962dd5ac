"""Lossless bfloat16 weights in about 11 bits: exponents under a Huffman code, sign and mantissa as they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp_kernels.dfloat11 import reference
from ctxcomp_kernels.dfloat11.table import Table, code_table, histogram, split, table_of
from ctxcomp_kernels.dispatch import choose

__all__ = ["Encoded", "Table", "code_table", "decode", "encode", "histogram", "table_of"]


@dataclass(frozen=True, eq=False)
class Encoded:
    """A bfloat16 tensor of ``shape`` (n weights), encoded.

    sign_mantissa: uint8 [n], sign << 7 | mantissa.
    stream: int64 [chunks + 1], the exponents' codes, first bit highest, and one word of padding.
    gaps: uint8 [ceil(chunks / 2)], 4 bits a chunk: bits before the first code that starts in it.
    positions: int64 [ceil(chunks / 256) + 1], the first weight of each block of 256 chunks, and n.
    table: the code; often shared by several tensors.
    """

    shape: tuple[int, ...]
    sign_mantissa: Tensor
    stream: Tensor
    gaps: Tensor
    positions: Tensor
    table: Table

    def nbytes(self, *, with_table: bool = True) -> int:
        """Bytes of all arrays; without the table where others count it."""
        held = (self.sign_mantissa, self.stream, self.gaps, self.positions)
        return sum(part.numel() * part.element_size() for part in held) + (self.table.nbytes() if with_table else 0)


def encode(weight: Tensor, table: Table | None = None) -> Encoded:
    """Encode a bfloat16 tensor without loss; the result lies on the device of ``weight``.

    Parameters
    ----------
    weight: bfloat16, any shape; NaN payloads, infinities, subnormals and negative zeros survive.
    table: the code to use; None makes one from this weight. One table for several weights saves its 8 KiB:
        ``code_table(histogram(a) + histogram(b))``.

    Raises
    ------
    InputError: another dtype, or an exponent that the table does not know.
    """
    exponents, sign_mantissa = split(weight)
    if table is None:
        table = code_table(histogram(weight))
    arrays = reference.encode_stream(exponents.cpu(), table)
    stream, gaps, positions = (array.to(weight.device) for array in arrays)
    on_device = Table(table.lengths.to(weight.device), table.lookup.to(weight.device))
    same = table.lookup.device == weight.device
    return Encoded(tuple(weight.shape), sign_mantissa, stream, gaps, positions, table if same else on_device)


def decode(encoded: Encoded, *, out: Tensor | None = None, backend: str = "") -> Tensor:
    """The tensor that was encoded, bit for bit.

    Parameters
    ----------
    encoded: as ``encode`` made it, all arrays on one device.
    out: contiguous bfloat16 of ``encoded.shape`` to write into, for one buffer shared by many layers.

    Raises
    ------
    InputError: ``out`` does not fit.
    ModelError: the stream is damaged (found on the CPU; the GPU kernel does not look).
    """
    arrays = (encoded.sign_mantissa, encoded.stream, encoded.gaps, encoded.positions, encoded.table.lookup)
    if out is not None and (
        out.dtype != torch.bfloat16 or out.numel() != math.prod(encoded.shape) or not out.is_contiguous()
    ):
        raise InputError(
            f"out must be contiguous bfloat16 of shape {encoded.shape}, got {out.dtype} {tuple(out.shape)}"
        )
    if choose("dfloat11", encoded.stream.device, backend=backend) == "triton":
        from ctxcomp_kernels.dfloat11.fused import decode as decode_fused

        result = torch.empty(encoded.shape, dtype=torch.bfloat16, device=encoded.stream.device) if out is None else out
        decode_fused(*arrays, result)
        return result
    weight = reference.decode(*arrays).view(encoded.shape)
    return weight if out is None else out.copy_(weight.view(out.shape))
