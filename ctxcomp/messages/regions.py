"""Which stretches of one text are context: the rules, in their order. The first rule that finds something decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ctxcomp.messages.cut import (
    DELIMITER,
    Piece,
    cut,
    element_piece,
    json_pieces,
    piece,
    trimmed,
    unwrapped,
    without_rule,
)
from ctxcomp.messages.json_texts import has_names, row_of, rows_of, values
from ctxcomp.messages.labels import (
    LONGEST_QUESTION,
    MOST_LABELS,
    Label,
    blocks_of,
    end_of,
    first_paragraph,
    groups,
    is_question,
    labels_of,
    last_paragraph,
    last_turn,
    tail,
)
from ctxcomp.messages.prose import is_code, is_personal, is_prose, length_in_words
from ctxcomp.messages.question import asks_beside, beside, question_of
from ctxcomp.messages.records import footer_at, header_at, marks_of
from ctxcomp.messages.tags import elements
from ctxcomp.messages.words import announces_context, is_context_tag, needs_the_whole

LONG_TEXT_WORDS = 200
"""A text without any mark is context only if it has at least this many words beside its question."""
SHORTEST_PASSAGE = 60
"""Characters, on average, of passages that repeat a label."""
WEAK_LABEL_WORDS = 80
"""What stands after a label that people also use for other things, "Context:" or "Background:", has at least these."""


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of context: its passages, and what marked it."""

    start: int
    end: int
    pieces: tuple[Piece, ...]
    how: str

    @property
    def size(self) -> int:
        """Characters of the passages."""
        return sum(len(piece.passage.text) for piece in self.pieces)

    @property
    def is_code(self) -> bool:
        """Whether most of the passages are code, data or markup, which is left alone."""
        coded = sum(len(piece.passage.text) for piece in self.pieces if is_code(piece.passage.text))
        return coded > 0.5 * self.size


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read from one text: its context, and the question if something marks it."""

    regions: tuple[Region, ...] = ()
    question: tuple[int, int] | None = None
    question_from: str = ""

    @property
    def size(self) -> int:
        """Characters of the passages."""
        return sum(region.size for region in self.regions)


Rule: TypeAlias = Callable[[str, list[Label]], list[Region]]


def read(text: str, *, min_characters: int) -> Reading:
    """Find the context in the text of a user's message."""
    labels = labels_of(text)
    for rule in RULES:
        regions = rule(text, labels)
        if sum(region.size for region in regions) >= max(min_characters, 1):
            return Reading(tuple(regions), *question_of(text, labels, regions))
    return Reading((), *question_of(text, labels, []))


def whole(text: str, how: str, start: int = 0, end: int | None = None) -> Region | None:
    """A stretch that is all context."""
    a, b = trimmed(text, start, len(text) if end is None else end)
    pieces, by = cut(text, a, b)
    return Region(a, b, tuple(pieces), f"{how}, {by}" if by else how) if pieces else None


def tagged(text: str, labels: list[Label] | None = None) -> list[Region]:
    """XML-like tags whose name says that they hold context."""
    found = []
    queue = elements(text)[::-1]
    while queue:
        element = queue.pop()
        kind = is_context_tag(element.name)
        if kind is None:
            queue += element.children[::-1]
        elif kind == "container":
            region = whole(text, f"tag <{element.name}>", element.inner_start, element.inner_end)
            found += [region] if region else []
        else:
            one = element_piece(text, element)
            found.append(Region(element.start, element.end, (one,), f"tag <{element.name}>"))
    return [region for region in _neighbours(text, found) if not region.is_code]


def labelled(text: str, labels: list[Label]) -> list[Region]:
    """What stands after "Context:", "## Documents" or between "BEGIN CONTEXT" and "END CONTEXT"."""
    blocks = [whole(text, f"block {key.strip()}", a, b) for a, b, key in blocks_of(text)]
    if blocks:
        return [block for block in blocks if block and not block.is_code]
    found = []
    labels = last_turn(labels)
    for group in groups(labels):
        first = group[0]
        end = end_of(text, group[-1], labels)
        region = _repeated(text, group, end) if len(group) > 1 else _region(text, first.end, end, f"label {first.key}:")
        if region is None:
            continue
        if first.kind == "weak" and not _is_plainly_context(text, labels, region):
            continue
        found.append(region)
    return found


def delimited(text: str, labels: list[Label]) -> list[Region]:
    """Between two lines of dashes, quotes or backticks, if the sentence before them points at a context."""
    marks = [(m.start(), m.end(), m["mark"][:3]) for m in DELIMITER.finditer(text)]
    if len(marks) > MOST_LABELS:
        return []
    for i, (start, end, mark) in enumerate(marks):
        before = text[max(0, start - 600) : start].rstrip()
        if not announces_context(before[before.rfind("\n\n") + 1 :]):
            continue
        closing = [other for other in marks[i + 1 :] if other[2] == mark]
        if closing:
            region = _region(text, end, closing[-1][0], f"delimiter {mark}")
            if region and asks_beside(text, labels, region) and not needs_the_whole(before):
                return [region]
        return []
    return []


def numbered(text: str, labels: list[Label]) -> list[Region]:
    """Passages "[1] …", "Document 2: …" that count up, beside a question."""
    marks = marks_of(text, 0, len(text), strict=True)
    if not marks:
        return []
    region = _region(text, marks[0], tail(text, marks[-1], labels), "numbered passages")
    return [region] if region and asks_beside(text, labels, region) else []


def in_json(text: str, labels: list[Label]) -> list[Region]:
    """Arrays of objects that hold texts and say where they come from, beside a question."""
    stretches = list(values(text, 0, len(text)))
    named = [(a, b) for a, b in stretches if any(has_names(rows) for rows in rows_of(text, a, b))]
    lines = [row for a, b in stretches if (row := row_of(text, a, b))]
    if not named and len(lines) > 1 and has_names(lines):
        named = [(lines[0].start, lines[-1].end)]
    return [region for a, b in named if asks_beside(text, labels, region := json_region(text, a, b))]


def json_region(text: str, start: int, end: int) -> Region:
    """The passages in one JSON value."""
    return Region(start, end, tuple(json_pieces(text, start, end)), "json array")


def announced(text: str, labels: list[Label]) -> list[Region]:
    """What stands between a paragraph such as "Use the following pieces of context …" and the question."""
    start, end = first_paragraph(text, 0, len(text))
    asked = is_question(text[start:end])
    if asked:
        start, end = first_paragraph(text, end, len(text))
    if end - start > LONGEST_QUESTION or not announces_context(text[start:end]):
        return []
    region = _region(text, end, tail(text, end, labels), "announced context")
    asked = (
        asked or any(label.kind == "question" for label in labels) or is_question(text[region.end :] if region else "")
    )
    return [region] if region and asked and _is_plainly_context(text, labels, region) else []


def long_text(text: str, labels: list[Label]) -> list[Region]:
    """A long text of prose and, apart from it, one short question before or after it."""
    if len(text) < 2 * LONG_TEXT_WORDS:
        return []
    body = trimmed(text, 0, len(text))
    first, last = first_paragraph(text, *body), last_paragraph(text, *body)
    if last[0] > body[0] and is_question(text[slice(*last)]):
        start, end = body[0], last[0]
    elif first[1] < body[1] and is_question(text[slice(*first)]):
        start, end = first[1], body[1]
    else:
        return []
    stretch = text[start:end]
    if any(label.kind not in ("strong", "weak") for label in labels) or not is_prose(stretch):
        return []
    region = whole(text, "long text beside a question", start, end)
    is_long = region is not None and _is_long(text, region, LONG_TEXT_WORDS)
    return [region] if region and is_long and _is_plainly_context(text, labels, region) else []


RULES: tuple[Rule, ...] = (tagged, labelled, delimited, numbered, in_json, announced, long_text)


def _region(text: str, start: int, end: int, how: str) -> Region | None:
    """A stretch as context, without delimiters around it; None where it is code."""
    region = whole(text, how, *unwrapped(text, *trimmed(text, start, end)))
    return None if region is None or region.is_code else region


def _repeated(text: str, group: list[Label], end: int) -> Region | None:
    """Passages that each have the same label above them."""
    if (end - group[0].start) / len(group) < SHORTEST_PASSAGE:
        return None
    pieces = []
    for label, stop in zip(group, [*(after.start for after in group[1:]), end], strict=True):
        a, b = trimmed(text, label.end, without_rule(text, label.end, stop))
        header = header_at(text, label.start, b)
        body = unwrapped(text, max(a, header.body), footer_at(text, a, b))
        pieces.append(piece(text, *body, (label.start, max(b, label.end)), header))
    region = Region(group[0].start, pieces[-1].slot.shell_end, tuple(pieces), f"labels {group[0].key}:")
    return None if region.is_code else region


def _is_plainly_context(text: str, labels: list[Label], region: Region) -> bool:
    """Whether what stands after a label that people use for other things too is a long text beside a question."""
    is_long = _is_long(text, region, WEAK_LABEL_WORDS)
    if not is_long or is_personal(text[region.start : region.end]) or needs_the_whole(beside(text, region)):
        return False
    return asks_beside(text, labels, region)


def _is_long(text: str, region: Region, words: int) -> bool:
    return length_in_words(text[region.start : region.end][: 20 * words]) >= words


def _neighbours(text: str, found: list[Region]) -> list[Region]:
    """Passages in tags that follow each other as one region."""
    merged: list[Region] = []
    for region in found:
        last = merged[-1] if merged else None
        if last and last.how == region.how and not text[last.end : region.start].strip(" \t\r\n,"):
            merged[-1] = Region(last.start, region.end, last.pieces + region.pieces, last.how)
        else:
            merged.append(region)
    return merged
