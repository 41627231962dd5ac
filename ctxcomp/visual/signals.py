"""What the vision tower's own attention says of each visual token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.visual.watch import Heard, attention_of, logits_of


@dataclass(frozen=True, eq=False)
class Signals:
    """Attention of the tower, carried from patches to visual tokens.

    Parameters
    ----------
    heard: the calls of each watched layer, see ``watch``.
    members: int64 ``[n, f]``, the patches whose mean a token is; -1 for a token that stands for none.
    prefix: tokens before the patches of each sequence: 1 where the tower has a CLS token, else 0.
    lengths: patches of each image, where one sequence holds several.
    layer: gives the watched number of the layer that a method names.
    """

    heard: dict[int, list[Heard]]
    members: Tensor
    prefix: int
    lengths: Sequence[int] | None
    layer: Callable[[int], int]
    _known: dict[Any, Tensor] = field(default_factory=dict, init=False)

    def named(self, name: str, layer: int, **options: Any) -> Tensor:
        """One of the signals below by name, on the CPU; made once for all pages."""
        key = (name, self.layer(layer), *sorted(options.items()))
        if key not in self._known:
            self._known[key] = getattr(self, name)(layer, **options).cpu()
        return self._known[key]

    @property
    def has_cls(self) -> bool:
        """Whether the tower has a token that attends on behalf of the whole image."""
        return self.prefix == 1

    def cls_logits(self, layer: int) -> Tensor:
        """Scores of CLS for each token before the softmax, the mean of the heads, ``[n]``."""
        self._need_cls()
        rows = []
        for call in self._calls(layer):
            heads = [scores[:, 0, 1:] for scores in logits_of(call, slice(0, 1))]
            rows.append(torch.stack(heads).mean(0).flatten())
        return self.tokens(torch.cat(rows))

    def cls_attention(self, layer: int) -> Tensor:
        """Attention of CLS to each token, the mean of the heads, ``[n]``."""
        self._need_cls()
        rows = [attention_of(call, slice(0, 1))[:, 0, 1:].flatten() for call in self._calls(layer)]
        return self.tokens(torch.cat(rows))

    def cls_attention_full_width(self, layer: int) -> Tensor:
        """Attention of CLS as one head of the full width would pay it (PruMerge), ``[n]``."""
        self._need_cls()
        rows = []
        for call in self._calls(layer):
            query, key = _flat(call.query)[:, :1], _flat(call.key)
            rows.append((query @ key.transpose(1, 2) * key.shape[-1] ** -0.5).softmax(-1)[:, 0, 1:].flatten())
        return self.tokens(torch.cat(rows))

    def received(self, layer: int) -> Tensor:
        """Attention that each token receives, the mean of heads and queries of its image, ``[n]``."""
        rows = [attention_of(call)[:, self.prefix :, self.prefix :].mean(1).flatten() for call in self._calls(layer)]
        return self.tokens(torch.cat(rows))

    def keys(self, layer: int, *, full_width: bool = False) -> Tensor:
        """Keys of each token, the mean of the heads ``[n, d]`` or all heads side by side ``[n, H * d]``."""
        rows = []
        for call in self._calls(layer):
            keys = _flat(call.key) if full_width else call.key.float().mean(1)
            rows.append(keys[:, self.prefix :].flatten(0, 1))
        return self.tokens(torch.cat(rows))

    def tokens(self, patches: Tensor) -> Tensor:
        """Values of patches ``[p]`` or ``[p, d]`` as values of visual tokens; 0 where a token stands for no patch."""
        values = patches[self.members.clamp(min=0)].mean(1)
        missing = self.members[:, 0] < 0
        return values.masked_fill(missing if values.dim() == 1 else missing[:, None], 0.0)

    def _need_cls(self) -> None:
        if not self.has_cls:
            raise InputError("this vision tower has no CLS token: use a method that reads received attention")

    def _calls(self, layer: int) -> Iterator[Heard]:
        for call in self.heard[self.layer(layer)]:
            if self.lengths is None:
                yield call
                continue
            queries, keys = (torch.split(tensor, list(self.lengths), dim=2) for tensor in (call.query, call.key))
            for query, key in zip(queries, keys, strict=True):
                yield Heard(query, key, call.scale, None)


def _flat(heads: Tensor) -> Tensor:
    """``[B, H, n, d]`` as ``[B, n, H * d]``."""
    return heads.float().transpose(1, 2).flatten(2)


@cache
def block_members(rows: int, columns: int, factor: int) -> Tensor:
    """The patches of each token where ``factor`` x ``factor`` patches make one: ``[rows * columns, factor ** 2]``.

    Parameters
    ----------
    rows, columns: of the grid of tokens; patches are in reading order.
    """
    grid = torch.arange(rows * factor * columns * factor).view(rows, factor, columns, factor)
    return grid.permute(0, 2, 1, 3).reshape(rows * columns, factor * factor)
