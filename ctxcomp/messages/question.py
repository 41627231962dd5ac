"""The question that stands beside a context: whether there is one, and which words are it."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

from ctxcomp.messages.cut import DELIMITER, trimmed, unwrapped
from ctxcomp.messages.labels import Label
from ctxcomp.messages.words import label_kind

_CLOSING = re.compile(r"</([^\W\d]\w{0,30})>")
_ROOM_FOR_ANSWER = re.compile(r"[;,.]?\s{0,9}\b(?:Answer|Response)\s?:\s*\Z", re.I)


class Stretch(Protocol):
    """A part of a text."""

    @property
    def start(self) -> int:
        """Its first character."""

    @property
    def end(self) -> int:
        """The character after its last."""


def asks_beside(text: str, labels: list[Label], region: Stretch) -> bool:
    """Whether something beside a region asks a question."""
    if any(label.kind == "question" and not region.start <= label.start < region.end for label in labels):
        return True
    return re.search(r"[?？؟]", beside(text, region)) is not None


def beside(text: str, region: Stretch) -> str:
    """The text around a region, of which only the nearest is looked at."""
    return text[max(0, region.start - 4000) : region.start] + "\n" + text[region.end : region.end + 4000]


def question_of(text: str, labels: list[Label], regions: Sequence[Stretch]) -> tuple[tuple[int, int] | None, str]:
    """The question, outside of the context, that tags or a label announce."""
    closing = [m for m in _CLOSING.finditer(text) if label_kind(m[1].replace("_", " ")) == "question"]
    if closing:
        name, end = closing[-1][1], closing[-1].start()
        start = text.rfind(f"<{name}>", 0, end) + len(name) + 2
        if start > len(name) + 1 and not _inside(start, regions):
            return trimmed(text, start, end), f"tag <{name}>"
    outside = [label for label in labels if label.kind == "question" and not _inside(label.start, regions)]
    if not outside:
        return None, ""
    label = outside[-1]
    stops = [edge for edge in (*(o.start for o in labels), *(r.start for r in regions)) if edge >= label.end]
    a, b = trimmed(text, label.end, min(stops, default=len(text)))
    a, b = unwrapped(text, a, b)
    for edge in (_ROOM_FOR_ANSWER.search(text, a, b), DELIMITER.search(text, a, b)):
        a, b = trimmed(text, a, min(b, edge.start()) if edge else b)
    return ((a, b), f"label {label.key}:") if b > a else (None, "")


def _inside(at: int, regions: Sequence[Stretch]) -> bool:
    i = bisect_right(regions, at, key=lambda region: region.start) - 1
    return i >= 0 and at < regions[i].end
