"""Long documents in shards, each of which one vector stands for."""

from __future__ import annotations

from typing import Any

from ctxcomp.errors import ModelError
from ctxcomp.generate.prompts import readable

TAIL = 20
"""A last shard of so few tokens is dropped."""


def shards(tokenizer: Any, text: str, tokens: int) -> list[str]:
    """A text in pieces of at most ``tokens`` tokens, in order, of which a last one of 20 or fewer is left out.

    A text without tokens has no piece; one shorter than a shard is its own.

    Raises
    ------
    ModelError: the tokenizer does not say where its tokens stand in the text.
    """
    if not tokenizer.is_fast:
        raise ModelError(f"{type(tokenizer).__name__} gives no offsets: a fast tokenizer is needed to cut documents")
    text = readable(text)
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    if len(spans) <= tokens:
        return [text] if spans else []
    starts = [n for n in range(0, len(spans), tokens) if n == 0 or len(spans) - n > min(TAIL, tokens - 1)]
    return [text[spans[n][0] : spans[min(n + tokens, len(spans)) - 1][1]] for n in starts]
