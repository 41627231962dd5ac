"""Results as plain JSON data: what integrations put beside a document, a message or a run."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any

from ctxcomp.types import CompressedText, Stats

Record = dict[str, Any]


def stats_record(stats: Stats) -> Record:
    """The statistics of one compression, with ``keep``."""
    return {**dataclasses.asdict(stats), "notes": list(stats.notes), "keep": stats.keep}


def passage_records(result: CompressedText) -> list[Record]:
    """For each passage what was kept of it.

    ``{"spans": [{"start", "end", "score"}, ...], "score", "stats"}``: offsets are characters of that passage's text;
    ``spans`` is None where text was generated; ``score`` is that of the best span, None without one; ``stats`` is
    that of the whole context.
    """
    stats = stats_record(result.stats)
    if result.spans is None:
        return [{"spans": None, "score": None, "stats": stats} for _ in result.passages]
    spans: list[list[Record]] = [[] for _ in result.passages]
    for s in result.spans:
        spans[s.passage].append({"start": int(s.start), "end": int(s.end), "score": float(s.score)})
    best = [max((span["score"] for span in own), default=None) for own in spans]
    return [{"spans": own, "score": top, "stats": dict(stats)} for own, top in zip(spans, best, strict=True)]


def context_record(result: CompressedText) -> Record:
    """What was kept of all passages: ``{"spans": [{"passage", "start", "end", "score"}, ...], "stats"}``."""
    spans = None if result.spans is None else [dataclasses.asdict(span) for span in result.spans]
    return {"spans": spans, "stats": stats_record(result.stats)}


def described(metadata: Mapping[Any, Any], record: Record, key: str | None) -> dict[Any, Any]:
    """A copy of a document's metadata with its record; that of an earlier compression moves to ``"before"``."""
    if key is None:
        return dict(metadata)
    earlier = metadata.get(key)
    return {**metadata, key: {**record, "before": earlier} if isinstance(earlier, Mapping) else record}


def finite(value: Any) -> float | None:
    """A retriever's score as a number; None where there is none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def titled(metadata: Mapping[Any, Any], key: str | None) -> str | None:
    """A document's title, if its metadata has one."""
    title = metadata.get(key) if key is not None else None
    return title if isinstance(title, str) else None
