"""Texts to chunks of at most 511 tokens, and tagged texts to plain ones, as llmlingua 0.2.2 cuts them."""

from __future__ import annotations

import bisect
import re
from collections.abc import Collection, Sequence

from ctxcomp.compat.llmlingua_tokenizer import MAX_TOKENS, PeerTokenizer
from ctxcomp.errors import InputError

_WORD = re.compile(r"\b\w+\b|[<>=/!@#$%^&*()?\":{}|\\`~;_+-]")
_ATTRIBUTE = r"\s*(?:,\s*rate\s*=\s*([\d\.]+))?\s*(?:,\s*compress\s*=\s*(True|False))?"
_SEGMENT = re.compile(rf"<llmlingua{_ATTRIBUTE}{_ATTRIBUTE}\s*>([^<]+)</llmlingua>")


def chunk(tokenizer: PeerTokenizer, texts: Sequence[str], ends: Collection[str]) -> list[list[str]]:
    """Cut each text into chunks that end with a token of ``ends`` where they can, and write them as text again."""
    return [
        [tokenizer.join(tokens[a:b]) for a, b in _cuts(tokens, frozenset(ends))] for tokens in tokenizer.pieces(texts)
    ]


def _cuts(tokens: Sequence[str], ends: frozenset[str]) -> list[tuple[int, int]]:
    size, n = MAX_TOKENS - 2, len(tokens)
    if n <= size:
        return [(0, n)] if n else []
    marks = [i for i, token in enumerate(tokens) if token in ends]
    cuts, start = [], 0
    while start < n:
        stop = n
        if start + size < n:
            # The limit is inclusive: a chunk may hold one token more than fits, which the model then cuts.
            last = start + size
            found = bisect.bisect_right(marks, last) - 1
            stop = marks[found] + 1 if found >= 0 and marks[found] > start else last + 1
        cuts.append((start, stop))
        start = stop
    return cuts


def uncut_words(text: str) -> list[str]:
    """The words that the labelled output lists for a text that is not compressed."""
    return _WORD.findall(text)


def untag(text: str, rate: float) -> str:
    """The text of ``<llmlingua>`` segments without their tags.

    Raises
    ------
    InputError: a segment asks for a rate or protection of its own, which LLMLingua-2 does not honour, or text
        outside of what the tags can hold would be lost.
    """
    if not text.startswith("<llmlingua"):
        text = "<llmlingua>" + text
    if not text.endswith("</llmlingua>"):
        text += "</llmlingua>"
    parts, end = [], 0
    for match in _SEGMENT.finditer(text):
        own_rate = match[1] or match[3]
        if "False" in (match[2], match[4]) or (own_rate and float(own_rate) != rate):
            raise InputError(
                f"{match[0][:60]!r}: LLMLingua-2 has one rate per call and would compress this segment like any other: "
                "compress each segment by a call of its own and join the results with the text to protect"
            )
        if match.start() != end:
            break
        end = match.end()
        parts.append(match[5])
    if end != len(text) and text != "<llmlingua></llmlingua>":
        raise InputError(
            f"structured_compress_prompt would lose text around {text[end : end + 60]!r}: '<' inside a segment, text "
            "outside of <llmlingua>...</llmlingua>, or tags that this model's tokenizer rewrites (WordPiece does). "
            "Use compress_prompt on the text without tags"
        )
    if parts and rate > 1:
        raise InputError(
            f"structured_compress_prompt takes a rate up to 1, got {rate:g} (target_token / tokens, if that is given); "
            "llmlingua 0.2.2 fails on it too: lower rate or target_token, or use compress_prompt"
        )
    return "".join(parts)
