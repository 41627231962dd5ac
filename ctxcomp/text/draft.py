"""Sentences that were extracted, made shorter and joined by rules: a summary's draft without a model.

The rules know English: they leave out what stands in brackets and connectives at the start of a sentence, and join a
sentence that begins with a pronoun to the one before it. They add "and" and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_BRACKETS = re.compile(r"\s*(?:\([^()]*\)|\[[^\[\]]*\])")
_CONNECTIVE = re.compile(
    r"(?:However|Moreover|Furthermore|Additionally|In addition|Therefore|Thus|Hence|Consequently|As a result|"
    r"In particular|For example|For instance|In fact|Indeed|Finally|Meanwhile|Nevertheless|Nonetheless|Also|"
    r"In this paper|In this work|To this end|Specifically|Notably|Interestingly|On the other hand),\s+(?=\w)"
)
_PRONOUN = re.compile(r"(?:It|They|He|She|We) (?=[a-z])")
_JOINED_WORDS = 40
"""A sentence that would be longer is not joined."""


def fused(sentences: Sequence[str], follows: Sequence[bool]) -> str:
    """One text of several sentences in source order.

    Parameters
    ----------
    follows: whether each sentence stood right after the one before it.
    """
    made: list[str] = []
    for sentence, next_to in zip(sentences, follows, strict=True):
        short = shortened(sentence)
        if not short:
            continue
        if next_to and made and _joins(made[-1], short):
            made[-1] = made[-1][:-1] + " and " + _PRONOUN.sub("", short, count=1)
        else:
            made.append(short)
    return " ".join(made)


def shortened(sentence: str) -> str:
    """A sentence without brackets and without the connective at its start."""
    bare = _BRACKETS.sub("", " ".join(sentence.split()))
    begun = _CONNECTIVE.sub("", bare, count=1) if _CONNECTIVE.match(bare) else bare
    return (begun[:1].upper() + begun[1:]).strip()


def _joins(before: str, sentence: str) -> bool:
    """Whether a sentence is about the subject of the one before: that one must begin with its subject, and be short."""
    words = len(before.split()) + len(sentence.split())
    same = re.match(r"(?:It|They|He|She|We)\b", before)
    pronoun = _PRONOUN.match(sentence)
    if not pronoun or not before.endswith(".") or words > _JOINED_WORDS or "," in before:
        return False
    return same is not None and same[0] == pronoun[0].strip()
