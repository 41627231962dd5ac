"""How a block of keys and values is written into fewer bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ctxcomp.generate.cache.evictor import LayerView
    from ctxcomp_kernels.kv_attention import KVBody


@dataclass
class Block:
    """Encoded keys and values of ``tokens`` consecutive slots.

    Parameters
    ----------
    tensors: by name; dimension 0 is the batch. Of a codec that ``joins``, dimension 2 is proportional to the tokens.
    tokens: slots it stands for.
    dtype: of the keys and values that decoding gives.
    meta: what else decoding needs; plain JSON values.
    """

    tensors: dict[str, Tensor]
    tokens: int
    dtype: torch.dtype
    meta: dict[str, Any] = field(default_factory=dict)

    def select(self, rows: Tensor) -> Block:
        """The block of other batch rows, int64 ``[B']``."""
        tensors = {name: t.index_select(0, rows.to(t.device)) for name, t in self.tensors.items()}
        return Block(tensors, self.tokens, self.dtype, self.meta)


class Codec(ABC):
    """Writes keys and values ``[B, H, n, d]`` into a ``Block`` and reads them back.

    A subclass is a frozen dataclass whose fields are its configuration, checked by ``check_fields``.

    Attributes
    ----------
    block: tokens that are encoded at once; the layer encodes multiples of it, the prompt in one call.
    residual: most recent tokens that always stay as they are.
    joins: blocks may be concatenated and cut at multiples of ``block`` along dimension 2.
    observes: ``saliency`` needs the queries, hence the attention "ctxcomp".
    fused: decode attention has a kernel that reads the blocks as they are, through ``bodies``.
    """

    block: int
    residual: int
    joins: ClassVar[bool] = True
    observes: ClassVar[bool] = False
    fused: ClassVar[bool] = False
    decode_window: ClassVar[int] = 8
    """Queries of past decoding steps that are kept for ``saliency``; they count as bytes of the cache."""

    @abstractmethod
    def encode(self, keys: Tensor, values: Tensor, saliency: Tensor | None = None) -> Block:
        """Encode ``[B, H, n, d]`` with n a multiple of ``block``; saliency ``[B, H, n]``, more is more important."""

    @abstractmethod
    def decode(self, block: Block) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, H, n, d]`` in ``block.dtype``."""

    def saliency(self, view: LayerView) -> Tensor | None:
        """Importance ``[B, H, n]`` of every slot; asked only where ``observes``."""
        return None

    def bodies(self, block: Block, valid: Tensor | None) -> list[KVBody]:
        """The block as the kernel reads it; valid: bool ``[B, H or 1, n]``, asked only where ``fused``."""
        raise NotImplementedError

    def join(self, first: Block, second: Block) -> Block:
        """Two neighbouring blocks as one."""
        tensors = {name: torch.cat([t, second.tensors[name]], dim=2) for name, t in first.tensors.items()}
        return Block(tensors, first.tokens + second.tokens, first.dtype, first.meta)

    def narrow(self, block: Block, start: int, end: int) -> Block:
        """The slots [start, end) of a block; both are multiples of ``self.block``."""

        def cut(tensor: Tensor) -> Tensor:
            size = tensor.shape[2]
            first, last = size * start // block.tokens, size * end // block.tokens
            return tensor[:, :, first:last].clone()  # a view would keep the whole storage alive

        return Block({k: cut(t) for k, t in block.tensors.items()}, end - start, block.dtype, block.meta)

    def nbytes(self, block: Block) -> int:
        """Bytes that the block's tensors take."""
        return sum(t.numel() * t.element_size() for t in block.tensors.values())
