"""Small entries become zero and take a bit each: per-token magnitude sparsity with bitmaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ctxcomp.errors import InputError
from ctxcomp.fields import check_fields
from ctxcomp.generate.cache.codec import Block, Codec

NAMES = ("keys", "values")
ALIGN = 8
"""Entries of a tile are padded to a multiple of this."""


@dataclass(frozen=True, kw_only=True)
class Mustafar(Codec):
    """Keeps the largest entries of each key and value vector, exactly.

    Parameters
    ----------
    keep: entries kept / entries of a vector, in (0, 1].
    block: tokens encoded at once.
    residual: most recent tokens that stay dense.

    Source: Mustafar (Joo et al., 2025). The layout is that of ``ctxcomp_kernels.sparse_attention``, whose offsets are
    worked out again from the bitmaps instead of being held.
    """

    keep: float = 0.5
    block: int = 32
    residual: int = 32

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.keep <= 1:
            raise InputError(f"Mustafar: keep must be in (0, 1], got {self.keep}: it is entries kept / entries")
        if self.block < 1 or self.residual < 0:
            raise InputError(
                f"Mustafar: block must be 1 or more, residual 0 or more, got {self.block=}, {self.residual=}"
            )

    def encode(self, keys: Tensor, values: Tensor, saliency: Tensor | None = None) -> Block:
        """Bitmaps ``[B, H, n, ceil(d / 64)]`` and the entries that stay, token by token, ``[B, longest row]``."""
        from ctxcomp_kernels.sparse_attention import compress

        tensors: dict[str, Tensor] = {}
        for name, x in zip(NAMES, (keys, values), strict=True):
            sparse = compress(x.transpose(1, 2).contiguous(), self.keep)
            bitmap = sparse.bitmap.transpose(1, 2).contiguous()
            lengths = _units(bitmap).flatten(1).sum(1) * ALIGN
            rows = torch.split(sparse.values, lengths.tolist())
            tensors |= {f"{name}.bitmap": bitmap, f"{name}.entries": pad_sequence(list(rows), batch_first=True)}
        return Block(tensors, keys.shape[2], keys.dtype, {"d": keys.shape[3]})

    def decode(self, block: Block) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, H, n, d]``, zero where entries were dropped."""
        from ctxcomp_kernels.sparse_attention import decompress

        keys, values = (decompress(self.sparse(block, name)) for name in NAMES)
        return keys, values

    def sparse(self, block: Block, name: str) -> Any:
        """The ``Sparse`` of "keys" or "values", for kernels that attend to it as it is."""
        from ctxcomp_kernels.sparse_attention import Sparse

        bitmap, entries = block.tensors[f"{name}.bitmap"], block.tensors[f"{name}.entries"]
        units = _units(bitmap).transpose(1, 2)
        before = (units.flatten(1).cumsum(1) - units.flatten(1)).view(units.shape).transpose(1, 2)
        row = torch.arange(len(entries), device=entries.device) * (entries.shape[1] // ALIGN)
        offsets = (before + row.view(-1, 1, 1, 1)).int().contiguous()
        return Sparse(bitmap, entries.flatten(), offsets, block.meta["d"])

    def join(self, first: Block, second: Block) -> Block:
        """Two neighbouring blocks as one."""
        tensors: dict[str, Tensor] = {}
        for name in NAMES:
            parts = zip(_rows(first, name, 0, first.tokens), _rows(second, name, 0, second.tokens), strict=True)
            bitmap = torch.cat([block.tensors[f"{name}.bitmap"] for block in (first, second)], dim=2)
            rows = [torch.cat(part) for part in parts]
            tensors |= {f"{name}.bitmap": bitmap, f"{name}.entries": pad_sequence(rows, batch_first=True)}
        return Block(tensors, first.tokens + second.tokens, first.dtype, first.meta)

    def narrow(self, block: Block, start: int, end: int) -> Block:
        """The slots [start, end) of a block."""
        tensors: dict[str, Tensor] = {}
        for name in NAMES:
            rows = _rows(block, name, start, end)
            bitmap = block.tensors[f"{name}.bitmap"][:, :, start:end].clone()
            tensors |= {f"{name}.bitmap": bitmap, f"{name}.entries": pad_sequence(rows, batch_first=True)}
        return Block(tensors, end - start, block.dtype, block.meta)


def _rows(block: Block, name: str, start: int, end: int) -> list[Tensor]:
    """The entries of the slots [start, end), of each row of the batch."""
    units = _units(block.tensors[f"{name}.bitmap"])
    first, last = (units[:, :, :at].flatten(1).sum(1) * ALIGN for at in (start, end))
    entries = block.tensors[f"{name}.entries"]
    return [row[a:b] for row, a, b in zip(entries, first.tolist(), last.tolist(), strict=True)]


def _units(bitmap: Tensor) -> Tensor:
    """Groups of 8 entries that each tile takes, int64."""
    octets = bitmap[..., None].view(torch.uint8)
    ones = torch.tensor([i.bit_count() for i in range(256)], device=bitmap.device)
    return (ones[octets.long()].sum(-1) + ALIGN - 1) // ALIGN
