"""What a run shows of its compression: metadata for tracers, and a custom event for all other handlers."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    BaseCallbackHandler,
    CallbackManagerForChainRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, get_callback_manager_for_config
from langchain_core.tracers.base import AsyncBaseTracer, BaseTracer

from ctxcomp.integrations.records import stats_record
from ctxcomp.types import Stats

EVENT = "ctxcomp"
"""Name of the custom event, whose data are the statistics."""


def report(run: CallbackManagerForChainRun, config: RunnableConfig, stats: Stats) -> None:
    """Show the statistics in a run; ``config`` is that of the run's children."""
    _annotate(run.handlers, run.run_id, stats)
    dispatch_custom_event(EVENT, stats_record(stats), config=config)


async def areport(run: AsyncCallbackManagerForChainRun, config: RunnableConfig, stats: Stats) -> None:
    """As `report`, for asynchronous handlers."""
    _annotate(run.handlers, run.run_id, stats)
    await adispatch_custom_event(EVENT, stats_record(stats), config=config)


def announce(stats: Stats) -> None:
    """Show the statistics in the run that is under way, if one is."""
    manager = get_callback_manager_for_config(ensure_config())
    if manager.parent_run_id is not None:
        _annotate(manager.handlers, manager.parent_run_id, stats)
        manager.on_custom_event(EVENT, stats_record(stats), run_id=manager.parent_run_id)


def _annotate(handlers: Sequence[BaseCallbackHandler], run_id: UUID, stats: Stats) -> None:
    """Add ``ctxcomp_method``, ``ctxcomp_tokens_in``, ``ctxcomp_tokens_out``, ``ctxcomp_keep`` ... to the metadata."""
    for handler in handlers:
        # Metadata are fixed when a run starts, and what it saves is known when it ends.
        run = handler.run_map.get(str(run_id)) if isinstance(handler, (BaseTracer, AsyncBaseTracer)) else None
        if run is not None:
            run.add_metadata({f"ctxcomp_{name}": value for name, value in stats_record(stats).items()})
