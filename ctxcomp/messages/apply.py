"""What is left of the passages, put back where they stood."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from ctxcomp.counting import CounterLike, resolve_counter
from ctxcomp.errors import InputError
from ctxcomp.messages.content import check_messages, texts_of, with_texts, without_marks
from ctxcomp.messages.json_texts import encoded
from ctxcomp.messages.types import CompressedMessages, Located, Place, Slot
from ctxcomp.types import CompressedText

_RULE = re.compile(r"[-=*_#~]{3,200}")
_Edit = tuple[int, int, str, bool]
"""``text[start:end]`` becomes this; whether it is what is left of a passage."""


def apply(
    messages: Sequence[Mapping[str, Any]],
    located: Located,
    results: Sequence[CompressedText],
    *,
    counter: CounterLike = None,
    elision: str | None = None,
) -> CompressedMessages:
    """Put the results of the requests that `plan` made into copies of the messages.

    Parameters
    ----------
    messages, located: as `plan` saw and found them.
    results: one for each request, in order; together they have the passages of all places.
    counter: counts ``tokens_in`` and the rest; None is the default counter.
    elision: stands where passages went away, for example ``"[… passages left out]"``; never inside JSON. None leaves
        nothing.

    Raises
    ------
    InputError: the results are not those of these messages.
    """
    check_messages(messages)
    left = [text for result in results for text in result.passage_texts]
    expected = len(located.passages) if results else 0
    if len(left) != expected or (results and [p for r in results for p in r.passages] != list(located.passages)):
        raise InputError(
            f"the results hold {len(left)} passages and the messages {len(located.passages)}: give the results of the "
            "requests that plan() made of these very messages"
        )
    edits = _edits(messages, located.places, left, elision) if results else {}
    return _put(messages, located, tuple(results), edits, counter)


def count_messages(messages: Sequence[Mapping[str, Any]], counter: CounterLike = None) -> int:
    """Tokens of the text in messages, each content string or text part counted by itself."""
    count = resolve_counter(counter).count
    return sum(count(text) for message in messages for _, text in texts_of(message))


def _put(
    messages: Sequence[Mapping[str, Any]],
    located: Located,
    results: tuple[CompressedText, ...],
    edits: Mapping[tuple[int, int | None], list[_Edit]],
    counter: CounterLike,
) -> CompressedMessages:
    count = resolve_counter(counter).count
    fresh: list[dict[str, Any]] = []
    tokens_in = tokens_out = tokens_context = 0
    for i, message in enumerate(messages):
        changed: dict[int | None, str] = {}
        for part, text in texts_of(message):
            before = after = count(text)
            own = edits.get((i, part))
            if own:
                shorter, around = _edited(text, own)
                if shorter != text:
                    changed[part], after = shorter, count(shorter)
                tokens_context += after - sum(count(piece) for piece in around)
            tokens_in, tokens_out = tokens_in + before, tokens_out + after
        fresh.append(without_marks(with_texts(message, changed)))
    return CompressedMessages(fresh, located, results, tokens_in, tokens_out, tokens_context)


def _edits(
    messages: Sequence[Mapping[str, Any]], places: Sequence[Place], left: Sequence[str], elision: str | None
) -> dict[tuple[int, int | None], list[_Edit]]:
    """The edits of each text, in order."""
    edits: dict[tuple[int, int | None], list[_Edit]] = {}
    remaining = iter(left)
    for place in places:
        text = next((t for part, t in texts_of(messages[place.message]) if part == place.part), None)
        if text is None or place.end > len(text):
            raise InputError(f"messages[{place.message}] has changed since its context was located: locate it again")
        own = [next(remaining) for _ in place.passages]
        edits.setdefault((place.message, place.part), []).extend(_of_place(text, place, own, elision))
    return edits


def _of_place(text: str, place: Place, left: Sequence[str], elision: str | None) -> Iterator[_Edit]:
    rows = list(zip(place.slots, place.passages, left, strict=True))
    shells = [list(group) for _, group in groupby(rows, key=lambda row: (row[0].shell_start, row[0].shell_end))]
    spans = [(shell[0][0].shell_start, shell[0][0].shell_end) for shell in shells]
    gone = [any(p.text for _, p, _ in shell) and not any(kept for _, _, kept in shell) for shell in shells]
    marks = [""] * len(shells)
    for i, shell in enumerate(shells):
        if elision and gone[i] and not shell[0][0].json and not (i and gone[i - 1]):
            marks[i] = elision
    deleted = _deleted(text, spans, [away and not mark for away, mark in zip(gone, marks, strict=True)])
    for i, shell in enumerate(shells):
        if gone[i]:
            yield *spans[i], marks[i], False
        else:
            yield from (_body(text, slot, passage.text, kept) for slot, passage, kept in shell)
        if i in deleted:
            yield spans[i][1], spans[i + 1][0], "", False


def _body(text: str, slot: Slot, before: str, kept: str) -> _Edit:
    source = text[slot.start : slot.end]
    if kept == before:
        return slot.start, slot.end, source, True
    return slot.start, slot.end, encoded(kept, source) if slot.json else kept, True


def _deleted(text: str, spans: list[tuple[int, int]], gone: list[bool]) -> set[int]:
    """The gaps, each by the shell before it, that go away with their shells; a gap that says something stays.

    The gap after a shell goes with it, and so does the gap before it if no shell of its row stays behind it: of
    ``[a, b, c]`` remain ``[b, c]``, ``[a, c]``, ``[a, b]``, ``[]``.
    """
    deleted = set()
    none_after = True
    for i in range(len(spans) - 2, -1, -1):
        gap = text[spans[i][1] : spans[i + 1][0]].strip()
        if gap in ("", ",") or _RULE.fullmatch(gap):
            none_after = none_after and gone[i + 1]
            if gone[i] or none_after:
                deleted.add(i)
        else:
            none_after = True
    return deleted


def _edited(text: str, edits: Sequence[_Edit]) -> tuple[str, list[str]]:
    """The text with its edits, and the pieces of it that are no passage."""
    parts: list[str] = []
    around: list[str] = []
    run: list[str] = []
    at = 0
    for start, end, fresh, is_passage in edits:
        run.append(text[at:start])
        at = end
        if is_passage and fresh:
            around.append("".join(run))
            parts += [around[-1], fresh]
            run = []
        else:
            run.append(fresh)
    around.append("".join([*run, text[at:]]))
    return "".join([*parts, around[-1]]), around
