"""One layer of a compressed cache: an encoded body, a tail of recent tokens, and what knows where each slot is from."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from ctxcomp.errors import InputError
from ctxcomp.generate.cache.codec import Block, Codec
from ctxcomp.generate.cache.evictor import GONE, Evictor, LayerView, choose, slot_valid
from ctxcomp_kernels.kv_attention import MAX_QUERIES

LONGEST_DRAFT = 64
"""A forward of more tokens than this is a prompt and is compressed at once. What a shorter one brought may be cropped
again (rejected drafts): it is compressed when the next forward begins, so that a crop need not undo it."""


class CompressedLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Slots 0 .. body are encoded blocks, the rest is the tail in the model's own dtype.

    Nothing that is encoded is encoded again, unless tokens are evicted from it. What the layer holds before a forward
    depends only on the tokens seen, not on how they came: one by one, or as accepted drafts.

    Parameters
    ----------
    codec, evictor: the policy.
    config: of the decoder; tells whether the attention is "ctxcomp".
    """

    is_croppable = True
    is_sliding = False
    keys: Tensor  # the tail, [B, H, m, d]
    values: Tensor

    def __init__(self, codec: Codec, evictor: Evictor | None, config: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.codec, self.evictor, self.config = codec, evictor, config
        self.observes = codec.observes or evictor is not None
        self._clear()

    def _clear(self) -> None:
        self.body: list[Block] = []
        self.keys = self.values = torch.empty(0)
        self.positions: Tensor | None = None  # int32 [B, H, n]; None: slot i holds token i
        self.queries: Tensor | None = None  # [B, Hq, w, d] of the last tokens, where a method observes
        self.module: Any = None  # weak reference to the attention module, once it has called
        self.state: dict[str, Tensor] = {}
        self.padding: Tensor | None = None
        self.seen = self.evicted_at = 0
        self.unobserved = 0  # last queries that a running method has not been shown yet: they may be cropped
        self.ragged = False  # some slots are GONE
        self.pending = False  # the attention has not had what the last update returned
        self.attends = False  # it is the tail alone, the attention is to call ``attend``
        self.is_initialized = False

    # What transformers asks

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take dtype, device and shape from the first states."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add tokens ``[B, H, q, d]``; returns all keys and values ``[B, H, n, d]`` as attention needs them.

        Raises
        ------
        InputError: a method must see the queries and the model's attention is not "ctxcomp", or loses the tensors.
        """
        mine = getattr(self.config, "_attn_implementation", None) == "ctxcomp"
        if self.observes and not mine:
            name = type(self.evictor or self.codec).__name__
            raise InputError(f"{name} needs the attention 'ctxcomp': call ctxcomp.generate.cache.install(model) first")
        if self.pending:
            raise InputError(
                "this model's attention does not hand on the cache's tensors: use its own attention and a policy that "
                "neither evicts nor weighs tokens"
            )
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.settle()
        self._append(key_states, value_states)
        self.attends = mine and self._has_kernel(key_states.shape[2])
        keys, values = (self.keys, self.values) if self.attends else self.dense()
        if not self.observes and key_states.shape[2] > LONGEST_DRAFT:
            self.settle(prompt=True)
        if mine:
            keys = keys.view_as(keys)  # a fresh tensor: the mark must not stay on the tail
            keys._ctxcomp_layer = self  # type: ignore[attr-defined]
            self.pending = True
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Logical, as if nothing were evicted: the attention "ctxcomp" picks the columns of the slots."""
        return self.seen + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens seen."""
        return self.seen

    def get_max_length(self) -> int:
        """No maximum."""
        return -1

    def reset(self) -> None:
        """Forget everything."""
        self._clear()

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens; of an encoded block that is cut, the rest is decoded."""
        if tokens_to_remove > 0:
            raise InputError(f"crop takes a number <= 0, minus the tokens to remove, got {tokens_to_remove}")
        if tokens_to_remove == 0 or not self.is_initialized:
            return
        remove = int(-tokens_to_remove)
        if remove >= self.seen:
            return self._clear()
        self.seen -= remove
        self.evicted_at = min(self.evicted_at, self.seen)
        left = 0 if self.queries is None else self.queries.shape[2] - remove
        self.queries = self.queries[:, :, :left] if self.queries is not None and left > 0 else None
        self.unobserved = max(0, self.unobserved - remove)
        self.padding = None if self.padding is None else self.padding[:, : self.seen]
        self._drop_last(remove if self.positions is None else self._mark_gone(self.positions))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the batch rows of the beams, int64 ``[B']``."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every batch row ``repeats`` times."""
        if self.is_initialized:
            rows = torch.arange(self.keys.shape[0], device=self.device)
            self.batch_select_indices(rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the batch rows ``indices``: numbers, or a bool for each row."""
        if not self.is_initialized:
            return
        rows = indices.nonzero().flatten() if indices.dtype == torch.bool else indices
        rows = rows.to(self.device)
        self.body = [block.select(rows) for block in self.body]
        self.keys, self.values = self.keys.index_select(0, rows), self.values.index_select(0, rows)
        self.positions, self.queries, self.padding = (
            None if t is None else t.index_select(0, rows) for t in (self.positions, self.queries, self.padding)
        )
        self.state = {name: t.index_select(0, rows) for name, t in self.state.items()}

    # What the attention asks

    def dense(self) -> tuple[Tensor, Tensor]:
        """All keys and values ``[B, H, n, d]``, decoded."""
        if not self.body:
            return self.keys, self.values
        parts = [self.codec.decode(block) for block in self.body]
        keys = torch.cat([*(k for k, _ in parts), self.keys], dim=2)
        return keys, torch.cat([*(v for _, v in parts), self.values], dim=2)

    def slot_positions(self) -> Tensor:
        """The token of each slot, int ``[B or 1, H or 1, n]``; GONE where there is none."""
        if self.positions is not None:
            return self.positions
        return torch.arange(self.seen, device=self.device)[None, None]

    def attend(self, query: Tensor, padding: Tensor | None, scaling: float) -> Tensor:
        """Attention of the last few tokens, ``[B, Hq, q, d]`` in and out, by the kernel that reads the codes."""
        from ctxcomp_kernels.kv_attention import decode

        valid = None
        if padding is not None or self.ragged:
            valid = slot_valid(self.slot_positions().expand(query.shape[0], -1, -1), padding)
        bodies, start = [], 0
        for block in self.body:
            end = start + block.tokens
            bodies += self.codec.bodies(block, None if valid is None else valid[:, :, start:end].contiguous())
            start = end
        tail = None if valid is None else valid[:, :, start:].contiguous()
        return decode(query, bodies, self.keys, self.values, scaling, tail_valid=tail)[0]

    def observe(self, module: Any, query: Tensor, padding: Tensor | None, scaling: float) -> None:
        """Called after the attention of every forward: remember the queries, compress after a prompt."""
        self.module, self.scaling, self.padding = weakref.ref(module), scaling, padding
        new = query.shape[2]
        held, window = self.queries, self._window()
        if held is not None and window:
            query = torch.cat([held[:, :, max(0, held.shape[2] - window) :], query], dim=2)
        self.queries, self.unobserved = query, new
        if new > LONGEST_DRAFT:
            self.settle(prompt=True)
            self.queries = query[:, :, query.shape[2] - min(query.shape[2], window) :].clone()

    # What the cache asks

    @property
    def batch_size(self) -> int:
        """Rows, -1 before the first."""
        return self.keys.shape[0] if self.is_initialized else -1

    def physical_length(self) -> int:
        """Slots held."""
        return self._body_length() + self.keys.shape[2] if self.is_initialized else 0

    def room(self) -> int:
        """Tokens one forward may bring and still see what it would see if they came one by one."""
        if not self.is_initialized:
            return LONGEST_DRAFT
        excess = self.keys.shape[2] - self.codec.residual
        room = self.codec.block - (excess % self.codec.block if excess > 0 else excess)
        interval = self.evictor.interval if self.evictor else 0
        if interval:
            room = min(room, interval - (self.seen - self.evicted_at) % interval)
        return min(room, LONGEST_DRAFT)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that is held, by name."""
        if not self.is_initialized:
            return {}
        single = {"positions": self.positions, "queries": self.queries, "padding": self.padding}
        found = {"keys": self.keys, "values": self.values} | {k: t for k, t in single.items() if t is not None}
        found |= {f"state.{name}": t for name, t in self.state.items()}
        return found | {f"body.{i}.{name}": t for i, block in enumerate(self.body) for name, t in block.tensors.items()}

    def meta(self) -> dict[str, Any]:
        """What ``tensors`` do not tell, as plain JSON values."""
        blocks = [{"tokens": b.tokens, "dtype": str(b.dtype).removeprefix("torch."), "meta": b.meta} for b in self.body]
        return {"seen": self.seen, "evicted_at": self.evicted_at, "ragged": self.ragged, "blocks": blocks}

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Take what ``tensors`` and ``meta`` of another layer gave."""
        self._clear()
        if "keys" not in tensors:
            return
        self.lazy_initialization(tensors["keys"], tensors["values"])
        self.keys, self.values = tensors["keys"], tensors["values"]
        self.positions, self.queries, self.padding = (tensors.get(k) for k in ("positions", "queries", "padding"))
        self.state = {name.removeprefix("state."): t for name, t in tensors.items() if name.startswith("state.")}
        for i, block in enumerate(meta["blocks"]):
            prefix = f"body.{i}."
            held = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            self.body.append(Block(held, block["tokens"], getattr(torch, block["dtype"]), block["meta"]))
        self.seen, self.evicted_at, self.ragged = meta["seen"], meta["evicted_at"], meta["ragged"]

    # Inside

    def _append(self, keys: Tensor, values: Tensor) -> None:
        new = keys.shape[2]
        self.keys, self.values = torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)
        if self.positions is not None:
            at = torch.arange(self.seen, self.seen + new, dtype=torch.int32, device=self.device)
            self.positions = torch.cat([self.positions, at.expand(*self.positions.shape[:2], new)], dim=2)
        self.state = {name: torch.nn.functional.pad(t, (0, new)) for name, t in self.state.items()}
        self.seen += new

    def _body_length(self) -> int:
        return sum(block.tokens for block in self.body)

    def _window(self) -> int:
        """Queries to hold between forwards."""
        if self.evictor is not None and self.evictor.interval:
            return self.evictor.decode_window
        return self.codec.decode_window if self.codec.observes else 0

    def _has_kernel(self, new: int) -> bool:
        return bool(self.body) and self.codec.fused and new <= MAX_QUERIES and self.device.type == "cuda"

    def _view(self, keys: Tensor, values: Tensor, queries: Tensor) -> LayerView:
        positions = self.slot_positions().expand(keys.shape[0], -1, -1)
        return LayerView(
            module=self.module(),
            keys=keys,
            values=values,
            queries=queries,
            positions=positions,
            padding=self.padding,
            seen=self.seen,
            scaling=self.scaling,
            state=self.state,
        )

    def settle(self, *, prompt: bool = False) -> None:
        """Evict what is over the budget, encode what is older than the tail."""
        if self.observes and self.module is None:
            return  # nothing came yet, or the layer was loaded, as it was stored: settled
        if self.queries is not None and self.evictor is not None and self.evictor.running and self.unobserved:
            self.evictor.observe(self._view(*self.dense(), self.queries[:, :, -self.unobserved :]))
        self.unobserved = 0
        if self.queries is not None and not prompt:
            self.queries = self.queries[:, :, max(0, self.queries.shape[2] - self._window()) :]
        if self.queries is not None and self.evictor is not None and self._due(self.evictor, prompt):
            self._evict(self.evictor, self.queries)
        excess = self.keys.shape[2] - self.codec.residual
        if excess >= self.codec.block:
            self._encode(excess // self.codec.block * self.codec.block)

    def _due(self, evictor: Evictor, prompt: bool) -> bool:
        return prompt or 0 < evictor.interval <= self.seen - self.evicted_at

    def _evict(self, evictor: Evictor, queries: Tensor) -> None:
        self.evicted_at = self.seen
        if self.physical_length() <= evictor.budget(self.seen):
            return
        view = self._view(*self.dense(), queries)
        kept = choose(evictor, view)
        self.positions = view.positions.expand(*kept.shape[:2], -1).gather(2, kept).to(torch.int32)
        self.keys, self.values = evictor.merge(view, kept)
        self.state = {name: t.gather(2, kept) for name, t in self.state.items()}
        self.body = []

    def _encode(self, count: int) -> None:
        saliency = None
        if self.codec.observes and self.queries is not None:
            start = self._body_length()
            scores = self.codec.saliency(self._view(*self.dense(), self.queries))
            saliency = None if scores is None else scores[:, :, start : start + count]
        block = self.codec.encode(self.keys[:, :, :count], self.values[:, :, :count], saliency)
        if self.body and self.codec.joins:
            self.body[-1] = self.codec.join(self.body[-1], block)
        else:
            self.body.append(block)
        self.keys, self.values = self.keys[:, :, count:].clone(), self.values[:, :, count:].clone()

    def _mark_gone(self, positions: Tensor) -> int:
        """Mark the slots of tokens that are not seen any more; returns how many last slots no head needs."""
        gone = positions >= self.seen
        self.positions = positions.masked_fill(gone, GONE)
        n = gone.shape[-1]
        last = torch.where(gone, -1, torch.arange(n, device=gone.device)).max()
        remove = n - 1 - int(last)
        self.ragged = bool(gone[..., : n - remove].any())
        return remove

    def _drop_last(self, count: int) -> None:
        """Drop the last slots; what is left of a block that is cut goes to the tail."""
        n = self.physical_length() - count
        while self._body_length() > n:
            block = self.body.pop()
            whole = max(0, n - self._body_length()) // self.codec.block * self.codec.block if self.codec.joins else 0
            if whole:
                self.body.append(self.codec.narrow(block, 0, whole))
                block = self.codec.narrow(block, whole, block.tokens)
            keys, values = self.codec.decode(block)
            self.keys, self.values = torch.cat([keys, self.keys], dim=2), torch.cat([values, self.values], dim=2)
            if whole:
                break
        left = n - self._body_length()
        self.keys, self.values = self.keys[:, :, :left].clone(), self.values[:, :, :left].clone()
        self.positions = None if self.positions is None else self.positions[:, :, :n]
        self.state = {name: t[:, :, :n] for name, t in self.state.items()}
