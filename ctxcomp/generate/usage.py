"""What one answer took: tokens, seconds, bytes and model calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Usage:
    """Statistics of one answer.

    Parameters
    ----------
    prompt_tokens, completion_tokens: tokens read and written; the token that ends an answer counts.
    prefill_seconds: from the start to the first token. Requests of one batch share their passes, so each carries an
        equal share, here and in ``decode_seconds`` and ``kv_bytes``.
    decode_seconds: from the first token to the last.
    weight_bytes: of the model's parameters and buffers, as they lie in memory.
    kv_bytes: of the KV cache when the answer was complete.
    model_calls: forward passes, the prefill included; of a batch, those of the whole batch.
    """

    prompt_tokens: int
    completion_tokens: int
    prefill_seconds: float
    decode_seconds: float
    weight_bytes: int
    kv_bytes: int
    model_calls: int

    @property
    def tokens_per_second(self) -> float:
        """Tokens written after the first one, per second of decoding; 0 where there is only one."""
        return (self.completion_tokens - 1) / self.decode_seconds if self.completion_tokens > 1 else 0.0

    def __str__(self) -> str:
        return (
            f"{self.prompt_tokens} tokens read in {self.prefill_seconds:.2f} s, {self.completion_tokens} written at "
            f"{self.tokens_per_second:.1f}/s in {self.model_calls} model calls, "
            f"weights {self.weight_bytes / 1e6:.1f} MB, KV {self.kv_bytes / 1e6:.1f} MB"
        )


def weight_bytes(model: Any) -> int:
    """Bytes of a model's parameters and buffers, each memory once, and of what modules say that they hold besides."""
    storages: dict[tuple[str, int], int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        storage = tensor.untyped_storage()
        storages[(str(tensor.device), storage.data_ptr())] = storage.nbytes()
    return sum(storages.values()) + sum(_more(module) for module in model.modules())


def _more(module: Any) -> int:
    """What a module without parts says it holds beyond its parameters and buffers."""
    if not hasattr(module, "nbytes") or next(module.children(), None) is not None:
        return 0
    return int(module.nbytes()) - _bytes((*module.parameters(), *module.buffers()))


def kv_bytes(cache: Any) -> int:
    """Bytes that a cache holds: as it says itself, or of its layers' keys and values."""
    if hasattr(cache, "nbytes"):
        return int(cache.nbytes())
    tensors = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
    return _bytes(tensor for tensor in tensors if tensor is not None)


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(int(tensor.numel()) * int(tensor.element_size()) for tensor in tensors)
