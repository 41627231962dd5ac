"""A stretch of context cut into its passages: by tags, JSON, records, numbers or rules, else one passage."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from ctxcomp.blocks import GAP
from ctxcomp.messages.json_texts import Row, decoded, name_of_row, row_of, rows_of, texts_of_row, values
from ctxcomp.messages.records import Header, footer_at, header_at, marks_of
from ctxcomp.messages.tags import Element, attributes_of, elements
from ctxcomp.messages.types import Slot
from ctxcomp.messages.words import BODY_TAGS, is_context_tag
from ctxcomp.types import Passage

_RULE = re.compile(r"^[ \t]{0,3}([-=*_#~])\1{2,200}[ \t]*$", re.M)
DELIMITER = re.compile(
    r"^[ \t]{0,3}(?P<mark>```|~~~|\"\"\"|'''|-{3,}|={3,}|#{3,}|\*{3,}|_{3,})[ \t]*(?:te?xt|md|markdown|json)?[ \t]*$",
    re.M,
)
"""A line that opens or closes a stretch: dashes, quotes or backticks."""
_TITLE_TAGS = ("title", "name", "heading")
_ID_TAGS = ("id", "index", "source", "url", "path", "file", "filename", "link")
_META_TAGS = frozenset((*_TITLE_TAGS, *_ID_TAGS, "score", "date", "author", "metadata", "page", "type", "published"))
_LONGEST_NAME = 300


@dataclass(frozen=True, slots=True)
class Piece:
    """A passage and where it stands."""

    passage: Passage
    slot: Slot


def cut(text: str, start: int, end: int) -> tuple[list[Piece], str]:
    """The passages of ``text[start:end]`` and what told them apart, "" where it is one passage."""
    start, end = trimmed(text, start, end)
    if start >= end:
        return [], ""
    for name, found in (
        ("tags", _by_tags(text, start, end)),
        ("json array", list(json_pieces(text, start, end)) if text[start] in "[{" else []),
        ("passages", _by_marks(text, start, end)),
        ("rules", _by_rules(text, start, end)),
    ):
        if found:
            return found, name
    return [piece(text, start, end)], ""


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The stretch without white space at either end."""
    body = text[start:end]
    start += len(body) - len(body.lstrip(GAP))
    return start, max(start, start + len(body.strip(GAP)))


def unwrapped(text: str, start: int, end: int) -> tuple[int, int]:
    """The stretch inside a pair of delimiters, if it begins with one."""
    opening = DELIMITER.match(text, start, end)
    if opening is None:
        inline = text[start : start + 3]
        closing = text.rfind(inline, start + 3, end) if inline in ('"""', "```", "'''") else -1
        return (start + 3, closing) if closing > start else (start, end)
    ends = [m.start() for m in DELIMITER.finditer(text, opening.end(), end) if m["mark"][:3] == opening["mark"][:3]]
    return trimmed(text, opening.end(), ends[-1] if ends else end)


def piece(text: str, start: int, end: int, shell: tuple[int, int] | None = None, header: Header | None = None) -> Piece:
    """One passage: its text without white space around it, in a shell."""
    a, b = trimmed(text, start, end)
    shell_start, shell_end = shell or (a, b)
    name = header or Header(a)
    return Piece(Passage(text[a:b], id=name.id, title=name.title), Slot(a, b, shell_start, shell_end))


def json_pieces(text: str, start: int, end: int) -> Iterator[Piece]:
    """The passages in the JSON values of a stretch: in arrays of objects, in lines of objects, in a single object."""
    found = list(values(text, start, end))
    for a, b in found:
        arrays = rows_of(text, a, b)
        for row in (row for rows in arrays for row in rows):
            yield from _row_pieces(text, row, whole=True)
        single = None if arrays else row_of(text, a, b)
        if single:
            # A lone object stays, since what reads it expects one.
            yield from _row_pieces(text, single, whole=len(found) > 1)


def _row_pieces(text: str, row: Row, *, whole: bool) -> Iterator[Piece]:
    name, title = name_of_row(text, row)
    for a, b in texts_of_row(text, row):
        shell = (row.start, row.end) if whole else (a, b)
        yield Piece(Passage(decoded(text, a, b), id=name, title=title), Slot(a, b, *shell, json=True))


def element_piece(text: str, element: Element) -> Piece:
    """The passage in a pair of tags: what its text tag holds, or all but the tags that name it at its beginning."""
    named = attributes_of(element)
    start, end = element.inner_start, element.inner_end
    bodies = [child for child in element.children if child.name in BODY_TAGS]
    for child in element.children:
        if child.name in _META_TAGS and child.inner_end - child.inner_start <= _LONGEST_NAME:
            named.setdefault(child.name, text[child.inner_start : child.inner_end].strip())
            if not text[start : child.start].strip():
                start = child.end
    if bodies:
        best = max(bodies, key=lambda child: child.inner_end - child.inner_start)
        start, end = best.inner_start, best.inner_end
    title = next((named[key] for key in _TITLE_TAGS if named.get(key)), None)
    name = next((named[key] for key in _ID_TAGS if named.get(key)), "")
    return piece(text, start, end, (element.start, element.end), Header(start, name, title))


def _by_tags(text: str, start: int, end: int) -> list[Piece]:
    if text.find("</", start, end) < 0:
        return []
    found = elements(text, start, end)
    names = [element.name.rstrip("0123456789_-") for element in found]
    times = Counter(names)
    chosen = [e for e, name in zip(found, names, strict=True) if times[name] > 1 or is_context_tag(e.name)]
    inside = sum(e.inner_end - e.inner_start for e in chosen)
    if not chosen or inside < 0.5 * (end - start):
        return []
    return [element_piece(text, element) for element in chosen]


def _by_marks(text: str, start: int, end: int) -> list[Piece]:
    """Numbered or titled passages: each reaches to the next one's beginning."""
    marks = marks_of(text, start, end)
    if not marks:
        return []
    pieces = []
    for mark, stop in pairwise([*marks, end]):
        header = header_at(text, mark, stop)
        body_end = footer_at(text, header.body, without_rule(text, header.body, stop))
        a, b = trimmed(text, header.body, body_end)
        shell_end = trimmed(text, mark, without_rule(text, header.body, stop))[1]
        pieces.append(piece(text, a, b, (mark, shell_end), header))
    return pieces


def without_rule(text: str, start: int, end: int) -> int:
    """The end of a passage without the rule that parts it from the next one."""
    _, end = trimmed(text, start, end)
    line = text.rfind("\n", start, end) + 1
    return line if line > start and _RULE.match(text, line, end) else end


def _by_rules(text: str, start: int, end: int) -> list[Piece]:
    """Passages between lines of dashes or the like."""
    rules = [m.span() for m in _RULE.finditer(text, start, end) if text[m.start() : m.end()].strip()[0] in "-=*"]
    edges = [start, *(at for rule in rules for at in rule), end]
    stretches = [trimmed(text, a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    stretches = [(a, b) for a, b in stretches if b > a]
    if not rules or len(stretches) < 2:
        return []
    return [piece(text, header_at(text, a, b).body, b, (a, b), header_at(text, a, b)) for a, b in stretches]
