"""Adapters: how each kind of model lays out its visual tokens, and how a shorter prompt is put together for it."""

from __future__ import annotations

import inspect
from typing import Any

from ctxcomp.errors import ModelError
from ctxcomp.visual.adapters.base import Adapter
from ctxcomp.visual.adapters.flat import FlatAdapter
from ctxcomp.visual.adapters.grid_list import GridListAdapter
from ctxcomp.visual.adapters.mrope import MRopeAdapter

__all__ = ["Adapter", "adapter_for", "families"]

ADAPTERS: tuple[type[Adapter], ...] = (GridListAdapter, MRopeAdapter, FlatAdapter)


def families() -> tuple[str, ...]:
    """The ``model_type`` of every supported model."""
    return tuple(sorted(kind for adapter in ADAPTERS for kind in adapter.kinds))


def adapter_for(model: Any) -> Adapter:
    """The adapter of a model.

    Raises
    ------
    ModelError: the model takes no encoded images, or lays them out in a way that is not known here.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    forward = getattr(model, "forward", None)
    if forward is None or "mm_encoder_outputs" not in inspect.signature(forward).parameters:
        raise ModelError(
            f"{type(model).__name__} does not take images that are encoded already (its forward has no "
            f"'mm_encoder_outputs'), so its visual tokens cannot be pruned: use one of {', '.join(families())} with a "
            "transformers release that has it"
        )
    for adapter in ADAPTERS:
        if kind in adapter.kinds:
            return adapter(model)
    raise ModelError(f"how a {kind!r} model lays out its visual tokens is not known: there are {', '.join(families())}")
