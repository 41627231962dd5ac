"""What was kept and what was dropped, side by side in the source, for a terminal."""

from __future__ import annotations

import re

from ctxcomp.types import CompressedText

BRIGHT, DIM, HEAD, RESET = "\x1b[1m", "\x1b[2m", "\x1b[36m", "\x1b[0m"

# Control characters of the text must not reach the terminal as commands.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def highlight(result: CompressedText, names: tuple[str, ...], *, color: bool = True) -> str:
    """Every passage in full: kept text bright, dropped text dim (without colour: dropped text in ``[- -]``).

    Where text was generated there is nothing to mark in the source: what was written of each passage is shown.

    Parameters
    ----------
    names: what to call each passage.
    color: use terminal escapes.
    """
    if result.spans is None:
        written = zip(names, result.passages, result.passage_texts, strict=True)
        return "\n\n".join(
            _block(f"{name} ({len(text)} characters written from {len(passage.text)})",
                   _mark(text, kept=True, color=color), color)
            for name, passage, text in written
        )  # fmt: skip
    kept: list[list[tuple[int, int]]] = [[] for _ in result.passages]
    for span in result.spans or ():
        kept[span.passage].append((span.start, span.end))
    blocks = []
    for name, passage, spans in zip(names, result.passages, kept, strict=True):
        share = f"{sum(b - a for a, b in spans)} of {len(passage.text)} characters"
        blocks.append(_block(f"{name} ({share})", "".join(_pieces(passage.text, spans, color)), color))
    return "\n\n".join(blocks)


def _block(title: str, body: str, color: bool) -> str:
    title = _CONTROL.sub("�", title)
    return (f"{HEAD}{title}{RESET}" if color else f"== {title}") + "\n" + body.strip("\n")


def _pieces(text: str, spans: list[tuple[int, int]], color: bool) -> list[str]:
    pieces, cursor = [], 0
    for start, end in [*spans, (len(text), len(text))]:
        pieces.append(_mark(text[cursor:start], kept=False, color=color))
        pieces.append(_mark(text[start:end], kept=True, color=color))
        cursor = end
    return pieces


def _mark(text: str, *, kept: bool, color: bool) -> str:
    text = _CONTROL.sub("�", text.replace("\r\n", "\n").replace("\r", "\n"))
    if not text.strip():
        return text
    if color:
        return f"{BRIGHT if kept else DIM}{text}{RESET}"
    return text if kept else f"[-{text}-]"
