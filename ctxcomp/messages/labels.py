"""Labels at the beginning of lines, "Context:" or "## Documents", and the question that stands beside a context."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from ctxcomp.messages.words import LabelKind, label_kind

# A key is short and has no colon, so that each line costs the same whatever is in it.
_LABEL = re.compile(
    r"^[ \t]{0,8}(?:[#>*_=\[【<-]{1,6}[ \t]{0,2})?(?P<key>[^\W\d_][^\n:：*_#=\]】<>\[]{0,60}?)[ \t]{0,2}"
    r"(?:[*_=\]】>-]{0,6}[ \t]{0,2}[:：][*_]{0,3}|[*_=\]】-]{2,6}[ \t]*$)"
    r"|^\#{1,6}[ \t]{1,3}(?P<head>[^\n:：#]{1,60}?)[ \t#]{0,8}$",
    re.M,
)
_BLOCK = re.compile(
    r"^[ \t]{0,3}[-=#*\[<]{0,6}[ \t]{0,2}(?P<edge>begin|start|end)(?:ning)?(?:[ _]of)?[ _](?:the[ _])?"
    r"(?P<key>[\w ]{3,40}?)(?:[ _]block)?[ \t]{0,2}[-=#*\]>:]{0,6}[ \t]*$",
    re.M | re.I,
)
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n")
_NUMBERS = re.compile(r"[\W_]*(?:\(.*|\d+)[\W_]*")
LONGEST_QUESTION = 1_000
"""Characters."""
FIELD_LABELS = frozenset(
    "source content text passage document article reference page paper snippet chunk excerpt context".split()
)
"""Labels that name a single text: below another label they are part of what it announces."""
MOST_LABELS = 2_000
"""In a text with more of them they are no labels of a prompt."""


@dataclass(frozen=True, slots=True)
class Label:
    """A label: ``text[start:end]``; what it is for stands after it."""

    start: int
    end: int
    kind: LabelKind
    key: str

    @property
    def name(self) -> str:
        """The key without numbers: "source" of "Source 1"."""
        return _NUMBERS.sub("", self.key.lower()).strip()


def labels_of(text: str) -> list[Label]:
    """All labels of a text that announce a context, a question, an answer or something else of a prompt's."""
    found = []
    for m in _LABEL.finditer(text):
        key = m["key"] or m["head"]
        kind = label_kind(key, alone=text[m.end() : m.end() + 100].lstrip(" \t").startswith(("\n", "\r")))
        if kind:
            found.append(Label(m.start(), m.end(), kind, key.strip()))
    return found if len(found) <= MOST_LABELS else []


def blocks_of(text: str) -> list[tuple[int, int, str]]:
    """Stretches between lines as "BEGIN CONTEXT" and "END CONTEXT", with their key."""
    found, begin = [], None
    for m in _BLOCK.finditer(text):
        if label_kind(m["key"]) not in ("strong", "weak"):
            continue
        if m["edge"].lower() != "end":
            begin = m
        elif begin is not None:
            found.append((begin.end(), m.start(), begin["key"]))
            begin = None
    return found


def first_paragraph(text: str, start: int, end: int) -> tuple[int, int]:
    """The first paragraph of a stretch that is not blank, without white space around it."""
    while start < end and text[start].isspace():
        start += 1
    stop = _PARAGRAPH_END.search(text, start, end)
    return start, stop.start() if stop else end


def last_paragraph(text: str, start: int, end: int) -> tuple[int, int]:
    """The last paragraph of a stretch, without white space after it."""
    end = start + len(text[start:end].rstrip())
    found = [m.end() for m in _PARAGRAPH_END.finditer(text, max(start, end - 2 * LONGEST_QUESTION), end)]
    return found[-1] if found else start, end


def is_question(text: str) -> bool:
    """Whether a paragraph is a short question."""
    text = text.strip().rstrip("\"'”’)*_ \n")
    return (
        0 < len(text) <= LONGEST_QUESTION
        and text[-1] in "?？؟;՞"
        and (text[-1] != ";" or "\u0370" <= text[0] <= "\u03ff")
    )


def last_turn(labels: list[Label]) -> list[Label]:
    """The labels after the last finished example, of context, question and answer."""
    last = 0
    for i, (label, after) in enumerate(pairwise(labels)):
        if label.kind == "answer" and after.kind in ("question", "strong", "weak"):
            last = i + 1
    kept = labels[last:]
    return kept if any(label.kind in ("strong", "weak") for label in kept) else labels


def groups(labels: list[Label]) -> list[list[Label]]:
    """The labels of context that each open a stretch; those that repeat, "Source 1:", "Source 2:", together."""
    groups: list[list[Label]] = []
    is_open = False
    for label in labels:
        if label.kind not in ("strong", "weak"):
            is_open = is_open and label.kind == "answer"
        elif is_open and label.name == groups[-1][-1].name:
            groups[-1].append(label)
        elif not (is_open and label.name in FIELD_LABELS):
            groups.append([label])
            is_open = True
    return groups


def end_of(text: str, label: Label, labels: list[Label]) -> int:
    """Where the context after a label ends: at the question, at the room for the answer, or at the next label."""
    asked_before = any(other.kind == "question" and other.start < label.start for other in labels)
    question = answer = None
    limit = len(text)
    for other in labels:
        if other.start < label.end:
            continue
        if other.kind == "stop" or (other.kind in ("strong", "weak") and other.name not in FIELD_LABELS):
            limit = other.start
            break
        if other.kind == "question" and not asked_before:
            question, answer = other.start, None  # texts may hold questions of their own: the last is the prompt's
        elif other.kind == "answer" and len(text) - other.end <= LONGEST_QUESTION:
            answer = other.start
    if question is not None:
        return question
    if answer is not None:
        return answer
    return limit if limit < len(text) else before_last_question(text, label.end)


def tail(text: str, start: int, labels: list[Label]) -> int:
    """Where context that begins at ``start`` ends, by the labels and paragraphs after it."""
    after = [label for label in labels if label.start >= start]
    questions = [label for label in after if label.kind == "question"]
    if questions:
        return questions[-1].start
    ends = [label.start for label in after if label.kind in ("answer", "stop")]
    return before_last_question(text, start) if not ends else ends[-1]


def before_last_question(text: str, start: int) -> int:
    """Where the last paragraph begins if it is a question after ``start``, else the end of the text."""
    a, b = last_paragraph(text, start, len(text))
    return a if a > start and is_question(text[a:b]) else len(text)
