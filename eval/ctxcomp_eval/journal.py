"""What is done so far, on disk: JSON lines that survive an interruption."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Journal:
    """Rows by key, appended to a file as they come. A line that an interruption cut short is dropped from the file.

    Parameters
    ----------
    path: need not be there.
    fresh: start over, whatever the file holds.
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        if fresh:
            path.unlink(missing_ok=True)
        if not path.is_file():
            return
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        whole = [(row, line) for line in lines if (row := _row(line))]
        self.rows = {row["key"]: row for row, _ in whole}
        if len(whole) < len(lines):
            path.write_text("".join(line for _, line in whole), encoding="utf-8")

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def add(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Append rows by their keys, and have them on disk when this returns."""
        new: Sequence[dict[str, Any]] = [{"key": key, **row} for key, row in rows.items()]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in new)
        self.rows |= {row["key"]: row for row in new}


def _row(line: str) -> dict[str, Any] | None:
    """The row of a whole line, else None."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if line.endswith("\n") and isinstance(row, dict) and isinstance(row.get("key"), str) else None
