"""headroom's TextCrusher: extractive sentences by BM25, recency and digits, in headroom's own environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ctxcomp.counting import TokenCounter
from ctxcomp.types import Passage, Span
from ctxcomp_eval.peers.base import Answer, Peer, Room, largest
from ctxcomp_eval.peers.foreign import Foreign, connect

VARIABLE = "CTXCOMP_HEADROOM_PYTHON"
INSTALL = "python -m venv .headroom && .headroom/bin/pip install headroom-ai==0.42.0"
STEPS = 1000
"""The search tries target ratios in steps of one in so many."""


@dataclass(frozen=True, kw_only=True)
class Headroom(Peer):
    """headroom-ai's ``TextCrusher().compress(text, context=query, target_ratio=...)`` with its default weights.

    The passages go in as one text with blank lines between them, as headroom's own benchmark of answer retention
    puts them. Its target is in characters, it goes over it by up to one sentence, and it raises targets below .05 to
    .05: a smaller budget is missed, and texts of fewer than six sentences come back whole.

    Parameters
    ----------
    rate: "fit" takes, for each request, the largest target whose result is within the budget by our counter, or the
        smallest target where none is; "asked" passes keep on as the target, as a user would.
    """

    rate: Literal["fit", "asked"] = "fit"

    def answers(
        self, query: str, passages: tuple[Passage, ...], rooms: Sequence[Room], counter: TokenCounter
    ) -> list[Answer]:
        """Ask headroom for each budget."""
        crusher = connect("headroom", VARIABLE, INSTALL)
        content = "\n\n".join(passage.text for passage in passages)
        return [self._answer(crusher, content, query, passages, room, counter) for room in rooms]

    def _answer(
        self, crusher: Foreign, content: str, query: str, passages: tuple[Passage, ...], room: Room,
        counter: TokenCounter,
    ) -> Answer:  # fmt: skip
        def crush(target: float) -> tuple[str, float]:
            return crusher.call(content=content, context=query, target_ratio=target)

        target = room.share
        if self.rate == "fit":
            target = largest(1, STEPS, lambda step: counter.count(crush(step / STEPS)[0]) <= room.tokens) / STEPS
        text, seconds = crush(target)
        spans = line_spans(text, passages)
        return Answer(text, spans, _left(spans, passages), seconds)


def line_spans(text: str, passages: Sequence[Passage]) -> tuple[Span, ...] | None:
    """The spans of the lines of ``text``, each found in the passages after the one before; None if one is not there."""
    spans: list[Span] = []
    number, position = 0, 0
    for line in filter(None, map(str.strip, text.split("\n"))):
        while number < len(passages) and (start := passages[number].text.find(line, position)) < 0:
            number, position = number + 1, 0
        if number == len(passages):
            return None
        position = start + len(line)
        spans.append(Span(number, start, position))
    return tuple(spans)


def _left(spans: tuple[Span, ...] | None, passages: Sequence[Passage]) -> tuple[str, ...]:
    lines: list[list[str]] = [[] for _ in passages]
    for span in spans or ():
        lines[span.passage].append(passages[span.passage].text[span.start : span.end])
    return tuple("\n".join(own) for own in lines)
