"""Contexts as vectors for a local generator: one token a passage, memory slots, and the ladder that mixes them.

Names are imported when they are first used: importing this package brings neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxcomp.optional import lazily

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

__getattr__, __dir__ = lazily(__name__, _HOMES)
