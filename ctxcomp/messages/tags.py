"""XML-like tags in text that need not be XML: pairs, found in one pass."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ctxcomp.messages.words import is_context_tag

# Bounded and stopped by the next "<": a text of nothing but "<" costs as much as any other.
_TAG = re.compile(r"<(/?)([^\W\d][\w.:-]{0,63})((?:\s[^<>]{0,400})?)>")
_EVENT = re.compile(_TAG.pattern + r"|^[ \t]{0,3}(?P<fence>```|~~~)", re.M)
_ATTRIBUTE = re.compile(r"([\w.:-]{1,64})\s{0,4}=\s{0,4}(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+))")


@dataclass(slots=True)
class Element:
    """A pair of tags: ``text[start:end]`` with them, ``text[inner_start:inner_end]`` between them."""

    name: str
    attributes: str
    start: int
    inner_start: int
    inner_end: int = -1
    end: int = -1
    children: list[Element] = field(default_factory=list)


def elements(text: str, start: int = 0, end: int | None = None) -> list[Element]:
    """The outermost pairs of tags, with those inside them as children.

    Fenced code is passed over unless a tag that names a context is open: chunks of Markdown may open a fence and never
    close it. A tag that is never closed is no element; its children are those of its parent.
    """
    end = len(text) if end is None else end
    if text.find("</", start, end) < 0:
        return []
    root = Element("", "", start, start)
    stack: list[Element] = [root]
    open_names: dict[str, int] = {}
    in_context, fence = 0, ""
    for found in _EVENT.finditer(text, start, end):
        mark = found["fence"]
        if mark:
            if not in_context and fence in ("", mark):
                fence = "" if fence else mark
            continue
        if fence:
            continue
        closes, name, attributes = found[1], found[2].lower(), found[3]
        if not closes:
            if not attributes.endswith("/"):
                stack.append(Element(name, attributes, found.start(), found.end()))
                open_names[name] = open_names.get(name, 0) + 1
                in_context += is_context_tag(name) is not None
        elif open_names.get(name):
            in_context -= _close(stack, open_names, name, found.start(), found.end())
    _abandon(stack, 0, open_names)
    return root.children


def attributes_of(element: Element) -> dict[str, str]:
    """The attributes of the opening tag."""
    return {m[1].lower(): m[2] or m[3] or m[4] or "" for m in _ATTRIBUTE.finditer(element.attributes)}


def _close(stack: list[Element], open_names: dict[str, int], name: str, at: int, end: int) -> int:
    """Close the innermost open element of that name; how many context tags are open no more."""
    i = len(stack) - 1
    while stack[i].name != name:
        i -= 1
    closed = sum(is_context_tag(element.name) is not None for element in stack[i:])
    _abandon(stack, i, open_names)
    element = stack.pop()
    open_names[name] -= 1
    element.inner_end, element.end = at, end
    stack[-1].children.append(element)
    return closed


def _abandon(stack: list[Element], i: int, open_names: dict[str, int]) -> None:
    """Take the elements above number ``i`` from the stack, never closed; their children move down to it."""
    for lost in stack[i + 1 :]:
        open_names[lost.name] -= 1
        stack[i].children += lost.children
    del stack[i + 1 :]
