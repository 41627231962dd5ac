"""From the words that llmlingua lists as kept back to the characters of the passages they came from.

llmlingua joins pieces of its vocabulary: with an uncased WordPiece the text is in lower case and has blanks inside
"3.5" and "twenty-four". Traced, its choice of words can be judged apart from that.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctxcomp.types import Span

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WORD_SEP, LABEL_SEP = "\t\t|\t\t", " "
"""llmlingua's own separators of ``fn_labeled_original_prompt``."""
SPECIALS = frozenset({"[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"})


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a passage: its text as the vocabulary spells it, and where it stands."""

    text: str
    passage: int
    start: int
    end: int


def kept_words(labelled: str, texts: Sequence[str], tokenizer: Tokenizer) -> list[tuple[int, Word]]:
    """The kept words with their numbers, in source order.

    Parameters
    ----------
    labelled: llmlingua's ``fn_labeled_original_prompt``: words of all contexts, each with 1 or 0.
    texts: the contexts.
    tokenizer: the checkpoint's, WordPiece.
    """
    pairs = [entry.rpartition(LABEL_SEP)[::2] for entry in labelled.split(WORD_SEP)] if labelled else []
    words = [word for word, _ in pairs]
    source = list(source_words(texts, tokenizer))
    if [word.text for word in source] == words:
        places: dict[int, int] = {i: i for i in range(len(words))}
    else:
        # A chunk that llmlingua cut at 512 positions, or forced tokens that are no words of the source.
        blocks = difflib.SequenceMatcher(None, words, [word.text for word in source]).get_matching_blocks()
        places = {block.a + k: block.b + k for block in blocks for k in range(block.size)}
    return [(places[i], source[places[i]]) for i, (_, label) in enumerate(pairs) if label == "1" and i in places]


def source_words(texts: Sequence[str], tokenizer: Tokenizer) -> Iterator[Word]:
    """The words of the texts as llmlingua merges them: a piece and the ``##`` pieces after it."""
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    for passage, encoding in enumerate(encodings):
        open_: Word | None = None
        for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True):
            if token in SPECIALS:
                continue
            if open_ is not None and token.startswith("##"):
                open_ = Word(open_.text + token.lstrip("#"), passage, open_.start, end)
                continue
            if open_ is not None:
                yield open_
            open_ = Word(token, passage, start, end)
        if open_ is not None:
            yield open_


def from_source(kept: Sequence[tuple[int, Word]], texts: Sequence[str]) -> tuple[tuple[str, ...], tuple[Span, ...]]:
    """What is left of each text, sliced from it, and the spans: neighbours keep their gap, others get a blank."""
    parts = [""] * len(texts)
    spans: list[Span] = []
    before = -1
    for number, word in kept:
        text = texts[word.passage]
        last = spans[-1] if spans and spans[-1].passage == word.passage else None
        if last is not None:
            parts[word.passage] += text[last.end : word.start] if number == before + 1 else " "
        parts[word.passage] += text[word.start : word.end]
        spans.append(Span(word.passage, word.start, word.end))
        before = number
    return tuple(parts), tuple(spans)
