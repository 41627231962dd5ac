"""Contexts as vectors for a local generator: one token a passage, memory slots, and the ladder that mixes them.

Names are imported when they are first used: importing this package brings neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctxcomp.latent.ladder import Ladder
    from ctxcomp.latent.memory_slots import MemorySlots
    from ctxcomp.latent.projector import Projector
    from ctxcomp.latent.store import read_latents, save_latents

__all__ = ["Ladder", "MemorySlots", "Projector", "read_latents", "save_latents"]

_HOMES = {
    "Ladder": "ladder",
    "MemorySlots": "memory_slots",
    "Projector": "projector",
    "read_latents": "store",
    "save_latents": "store",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
