"""Values of cells as text: what every reader writes alike."""

from __future__ import annotations

import datetime
from typing import Any

from ctxcomp.tables.grid import Kind

_MIDNIGHT = datetime.time()


def as_text(value: Any) -> tuple[str, Kind]:
    """A cell's value as text, with its kind.

    Numbers have at most the 15 digits that spreadsheets keep; dates are ISO; durations are hours:minutes:seconds.
    """
    if isinstance(value, bool):
        return str(value).upper(), Kind.BOOL
    if isinstance(value, int):
        return str(value), Kind.NUMBER
    if isinstance(value, float):
        return _number(value), Kind.NUMBER
    if isinstance(value, datetime.datetime):
        shown = value.date() if value.time() == _MIDNIGHT else value.replace(microsecond=0)
        return str(shown), Kind.DATE
    if isinstance(value, datetime.time):
        return str(value.replace(microsecond=0)), Kind.DATE
    if isinstance(value, datetime.timedelta):
        seconds = round(value.total_seconds())
        sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
        return f"{sign}{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}", Kind.DATE
    if isinstance(value, datetime.date):
        return str(value), Kind.DATE
    return str(value), Kind.TEXT


def _number(value: float) -> str:
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.15g}"
