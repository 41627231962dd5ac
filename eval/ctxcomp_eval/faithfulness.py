"""Whether an extractive result is made of its source and of nothing else, checked without the packer's code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from ctxcomp.render import Layout, header_of
from ctxcomp.segment import GAP
from ctxcomp.types import CompressedText, Span

_GAP = re.compile(f"[{re.escape(GAP)}]*+")
_NUMBERS = {"units": "\ue000", "start": "\ue001", "end": "\ue002"}


class _Part(NamedTuple):
    """Something that may stand between two slices."""

    pattern: re.Pattern[str]
    optional: bool = False


def faithful(result: CompressedText, layout: object = None) -> bool:
    """Whether the text is the slices its spans name, in the order of the source, with nothing foreign between.

    Between the slices may be white space (`ctxcomp.segment.GAP`) and what the layout declares: the separator between
    passages, the header before one, one elision mark where text of a passage is left out. Slices are compared without
    the white space at their ends. ``passage_texts`` must be the same slices, without headers.

    Parameters
    ----------
    result: any result; one without spans, generated text, is not shown to be faithful.
    layout: the method that made it if that is a `Layout`; anything else stands for the default layout, without
        headers and marks.
    """
    if result.spans is None or not _in_order(result):
        return False
    layout = layout if isinstance(layout, Layout) else Layout()
    spans = [span for span in result.spans if _slice(result, span)]
    bodies: list[list[Span]] = [[] for _ in result.passages]
    for span in spans:
        bodies[span.passage].append(span)
    bare = Layout(elision=layout.elision)
    return (
        len(result.passage_texts) == len(result.passages)
        and all(_walks(result, text, own, bare) for text, own in zip(result.passage_texts, bodies, strict=True))
        and _walks(result, result.text, spans, layout)
    )


def _in_order(result: CompressedText) -> bool:
    """Whether the spans lie in their passages, in source order, without overlap."""
    spans, passages = result.spans or (), result.passages
    inside = all(
        0 <= span.passage < len(passages) and 0 <= span.start <= span.end <= len(passages[span.passage].text)
        for span in spans
    )
    return inside and all((a.passage, a.end) <= (b.passage, b.start) for a, b in pairwise(spans))


def _slice(result: CompressedText, span: Span) -> str:
    return result.passages[span.passage].text[span.start : span.end].strip(GAP)


def _walks(result: CompressedText, text: str, spans: Sequence[Span], layout: Layout) -> bool:
    """Whether a text is the slices of the spans with what may stand between them.

    Where an optional mark could also be the beginning of the next slice, both readings are followed.
    """
    if not spans:
        return not text.strip(GAP)
    reached, before = {0}, None
    for span in spans:
        body, between = _slice(result, span), list(_between(result, before, span, layout))
        ends = {end for at in reached for end in _ends(text, at, between)}
        reached, before = {end + len(body) for end in ends if text.startswith(body, end)}, span
    tail = list(_tail(result, spans[-1], layout))
    return any(end == len(text) for at in reached for end in _ends(text, at, tail))


def _between(result: CompressedText, before: Span | None, span: Span, layout: Layout) -> Iterator[_Part]:
    """What may stand before a span: after the one before it, or at the beginning of the text."""
    if before is not None and before.passage == span.passage:
        yield _Part(_GAP)
        yield from _mark(result, span.passage, before.end, span.start, layout)
        return
    yield from _tail(result, before, layout) if before is not None else (_Part(_GAP),)
    yield from _literal(layout.separator if before is not None else "")
    yield from _literal(header_of(result.passages[span.passage], span.passage, layout))
    yield from _mark(result, span.passage, 0, span.start, layout)


def _tail(result: CompressedText, last: Span, layout: Layout) -> Iterator[_Part]:
    """What may stand after the last span of a passage."""
    yield _Part(_GAP)
    yield from _mark(result, last.passage, last.end, len(result.passages[last.passage].text), layout)


def _mark(result: CompressedText, passage: int, start: int, end: int, layout: Layout) -> Iterator[_Part]:
    """An elision mark, where visible characters are left out and the layout has one."""
    source = result.passages[passage]
    if not layout.elision or not source.text[start:end].strip(GAP):
        return
    mark = layout.elision.format(id=source.id, title=source.title or "", number=passage + 1, **_NUMBERS).strip(GAP)
    pattern = re.escape(mark)
    for sign in _NUMBERS.values():
        pattern = pattern.replace(re.escape(sign), r"\d+")
    yield _Part(re.compile(pattern), optional=True)
    yield _Part(_GAP)


def _literal(text: str) -> Iterator[_Part]:
    if text.strip(GAP):
        yield _Part(re.compile(re.escape(text.strip(GAP))))
        yield _Part(_GAP)


def _ends(text: str, at: int, parts: Sequence[_Part]) -> Iterator[int]:
    """Where reading the parts one after the other may end."""
    if not parts:
        yield at
        return
    if found := parts[0].pattern.match(text, at):
        yield from _ends(text, found.end(), parts[1:])
    if parts[0].optional:
        yield from _ends(text, at, parts[1:])
