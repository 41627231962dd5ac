"""Structured logs with request ids. What callers send never gets into them."""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

request_id: ContextVar[str] = ContextVar("ctxcomp_request_id", default="")
"""The id of the request that is being answered, "" outside of one."""

_ACCEPTABLE = re.compile(r"[A-Za-z0-9._-]{1,128}")
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


def acceptable_id(given: str | None) -> str:
    """The caller's request id where it is harmless, else a new one."""
    return given if given and _ACCEPTABLE.fullmatch(given) else uuid.uuid4().hex


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id and what ``extra`` holds.

    Of an exception only the type and the places are written: its message may hold what a caller sent.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line of one record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id.get():
            line["request_id"] = request_id.get()
        line |= {key: value for key, value in vars(record).items() if key not in _OWN}
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__name__
            line["trace"] = _places(record.exc_info[2])
        return json.dumps(line, default=str)


class TextFormatter(JsonFormatter):
    """The same for people: ``INFO ctxcomp_service: request status=200 ...``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of one record."""
        line = json.loads(super().format(record))
        head = f"{line.pop('level').upper()} {line.pop('logger')}: {line.pop('message')}"
        line.pop("time")
        return " ".join([head, *(f"{key}={value}" for key, value in line.items())])


def _places(trace: object) -> list[str]:
    frames = traceback.extract_tb(trace)  # type: ignore[arg-type]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


def configure(level: str, style: Literal["json", "text"]) -> None:
    """Send the logs of the process, the server's included, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"  # our own line has the request id and no address of the caller's
