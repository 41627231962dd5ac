"""Numbered and titled passages in plain text: where each begins, what names it, where its own text begins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

_NOUN = (
    r"(?:search |source |retrieved |web )?(?:documents?|docs?|passages?|sources?|chunks?|contexts?|snippets?|excerpts?|"
    r"results?|articles?|references?|evidence|texts?|papers?|dokument|quelle|fuente|documento|источник|документ|文档|资料|"
    r"来源|文書|資料)"
)
_NUMBER = re.compile(
    r"^[ \t]{0,3}(?:[#>*_]{1,4}[ \t]{0,2})?(?:"
    r"[\[【](?:" + _NOUN + r"[ \t:#_-]{0,2})?(?P<bracket>\d{1,4})[\]】]"
    r"|[-=*]{0,6}[ \t]?[\[(<]?" + _NOUN + r"[ \t]{0,2}(?:no\.|number|id)?[ \t:]{0,2}#?[\[(]?(?P<noun>\d{1,4})(?=[\W_])"
    r"|(?P<item>\d{1,4})[.)](?=[ \t])"
    r")",
    re.M | re.I,
)
_RECORD = re.compile(
    r"^[ \t]{0,3}(?:[-#>*_]{1,4}[ \t]{0,2})?(?P<key>title|source|document|doc|passage|url|link|file|filename|file_name|"
    r"file_path|page_label|page|name|id|doc_id|content|text|snippet|context|chunk|article|reference|titel|titre|título|"
    r"标题|来源|内容)[*_]{0,2}[ \t]{0,2}[:：]",
    re.M | re.I,
)
_META = frozenset(
    "title source url uri link date author authors published page page_label file filename file_name file_path path "
    "score id doc_id section chapter category type metadata relevance similarity rank domain language name titel titre "
    "título 标题 来源".split()
)
_BODY = frozenset("content text passage snippet context chunk document body excerpt summary article 内容".split())
_KEY_VALUE = re.compile(
    r"[-*>#_ \t]{0,6}(?P<key>[^\W\d][\w -]{0,24}?)[*_]{0,2}[ \t]{0,2}[:：][*_]{0,2}[ \t]*(?P<value>[^\n]*)"
)
_AFTER_NUMBER = re.compile(r"[ \t]*[\])>*_]{0,3}[ \t]*[:.)–—-]{0,2}[*_]{0,3}[-=]{0,6}[ \t]*")
_TITLE_IN_BRACKETS = re.compile(r"\(\s{0,2}(?:title[:：]?\s{0,2})?(?P<title>[^()\n]{1,200})\)[ \t]{0,2}:?", re.I)
_SENTENCE = re.compile(r"[.!?。！？][\"'”)]?$")
_FOOTERS = frozenset("source sources url link page".split())
_LONGEST_HEADING = 120
_MOST_HEADERS = 12


@dataclass(frozen=True, slots=True)
class Header:
    """What names a passage: where its own text begins, and its id and title if they are given."""

    body: int
    id: str = ""
    title: str | None = None


def marks_of(text: str, start: int, end: int, *, strict: bool = False) -> list[int]:
    """Where each of several passages begins, by a number or a label that they all have; empty if there is none.

    Parameters
    ----------
    strict: nothing else says that this is context: bracketed or named numbers that count up from 0 or 1, at least two.
    """
    kinds: dict[str, list[tuple[int, int]]] = {}
    for found in _NUMBER.finditer(text, start, end):
        kind = found.lastgroup or ""
        kinds.setdefault(kind, []).append((found.start(), int(found[kind])))
    for kind in ("bracket", "noun", "item"):
        marks = kinds.get(kind, [])
        if marks and _is_numbering(text, marks, start, end, kind, strict):
            return [at for at, _ in marks]
    return [] if strict else _records(text, start, end)


def header_at(text: str, start: int, end: int) -> Header:
    """What names the passage ``text[start:end]``."""
    name, title, at = "", None, start
    number = _NUMBER.match(text, start, end)
    if number:
        name = number[number.lastgroup or 0]
        at = min(_skip(text, number.end(), end), end)
        bracketed = _TITLE_IN_BRACKETS.match(text, at, end)
        if bracketed:
            title, at = bracketed["title"].strip(), bracketed.end()
        else:
            line = _line(text, at, end)
            if _is_heading(text, line, end) and not _KEY_VALUE.match(text, *line):
                title, at = text[slice(*line)].strip(' \t*_#:"') or None, line[1]
    fields, body = _fields(text, at, end)
    title = fields.get("title") or fields.get("name") or title
    name = name or next(
        (fields[k] for k in ("id", "doc_id", "source", "url", "file_path", "file_name") if k in fields), ""
    )
    return Header(body, name[:300], title)


def footer_at(text: str, start: int, end: int) -> int:
    """Where a passage ends if its last line names its source."""
    end = start + len(text[start:end].rstrip())
    line = text.rfind("\n", start, end) + 1
    found = _KEY_VALUE.match(text, line, end) if line > start else None
    return line if found and end - line <= 300 and found["key"].strip().lower() in _FOOTERS else end


def _is_numbering(text: str, marks: list[tuple[int, int]], start: int, end: int, kind: str, strict: bool) -> bool:
    numbers = [number for _, number in marks]
    mean = (end - marks[0][0]) / len(marks)
    ascending = all(b == a + 1 for a, b in pairwise(numbers))
    if strict:
        return kind != "item" and ascending and numbers[0] in (0, 1) and len(marks) > 1 and mean >= 100
    if text[start : marks[0][0]].strip() and marks[0][0] - start > 400:
        return False
    if kind == "item":
        return ascending and numbers[0] in (0, 1) and len(marks) > 1 and mean >= 120
    return len(set(numbers)) == len(numbers) and (len(marks) > 1 or marks[0][0] == start)


def _records(text: str, start: int, end: int) -> list[int]:
    """Records that begin with the same label, as "Source: …" and "Title: …"."""
    found = [(m.start(), m["key"].lower()) for m in _RECORD.finditer(text, start, end)]
    if not found or text[start : found[0][0]].strip():
        return []
    first = found[0][1]
    marks = [at for at, key in found if key == first]
    return marks if (end - marks[0]) / len(marks) >= 60 else []


def _skip(text: str, at: int, end: int) -> int:
    found = _AFTER_NUMBER.match(text, at, end)
    return found.end() if found else at


def _line(text: str, at: int, end: int) -> tuple[int, int]:
    stop = text.find("\n", at, end)
    return at, end if stop < 0 else stop


def _is_heading(text: str, line: tuple[int, int], end: int) -> bool:
    """Whether the rest of a line stands above the passage rather than beginning it."""
    words = text[slice(*line)].strip()
    return len(words) <= _LONGEST_HEADING and not _SENTENCE.search(words) and bool(text[line[1] : end].strip())


def _fields(text: str, at: int, end: int) -> tuple[dict[str, str], int]:
    """The "Key: value" lines at the beginning of a passage, and where its own text begins after them."""
    fields: dict[str, str] = {}
    for _ in range(_MOST_HEADERS):
        while at < end and text[at].isspace():
            at += 1
        a, b = _line(text, at, end)
        found = _KEY_VALUE.match(text, a, b)
        key = found["key"].strip().lower() if found else ""
        if found and key in _BODY and text[found.start("value") : end].strip():
            return fields, found.start("value")
        rest = text[b:end].strip()
        if found and key in _META and b - a <= 2000 and rest:
            fields[key] = found["value"].strip()
        elif not (
            text.startswith(("http://", "https://"), a) and b - a <= 500 and rest and " " not in text[a:b].strip()
        ):
            break
        at = b
    return fields, at
