"""Whether a text reads like prose, like code, or like somebody speaking of himself: cheap counts on its beginning."""

from __future__ import annotations

import re

SAMPLE = 20_000
"""Characters that are looked at: enough to tell, and the same cost for any size."""

_SYMBOLS = re.compile(r"[=(){}\[\]_;<>\\$]")
_CITATION = re.compile(r"\[[\d, \-–]{1,12}\]|https?://\S{1,200}|\([^()=;{}<>\n]{1,80}\)")
_KEYWORDS = re.compile(
    r"^[ \t]*(?:def \w+\(|class \w+[:({]|import [\w.{]+|from [\w.]+ import|return\b.*[;)\]]?$|function \w+\(|"
    r"(?:const|let|var) \w+ =|public |private |static |#include|SELECT .* FROM|INSERT INTO|at [\w.$]+\(|Traceback |"
    r"File \")",
    re.M,
)
_SENTENCE_END = re.compile(r"[.!?…:][\"'”’)\]]*(?=\s|$)|[。！？۔।]")
_WORD = re.compile(r"\w+")
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]")
_FIRST_PERSON = re.compile(
    r"\b(?:i|i'm|i’m|i've|my|me|mine|we|we're|our|us|ich|mir|mich|meine?[mnrs]?|wir|unser\w*|je|j'ai|mon|ma|mes|moi|nous|"
    r"notre|yo|mis?|nosotros|eu|meu|minha|io|mio|mia|ik|mijn|я|мне|меня|мой|моя|мы|нас)\b|我|私|僕|俺",
    re.I,
)


def length_in_words(text: str) -> int:
    """Words, where two characters of a script without spaces count as one."""
    return len(_WORD.findall(_WIDE.sub(" ", text))) + len(_WIDE.findall(text)) // 2


def is_code(text: str) -> bool:
    """Whether a text is mostly code, markup or data, which must not be cut into sentences."""
    sample = text[:SAMPLE]
    prose = _outside_fences(sample)
    if len(prose.strip()) < 0.4 * len(sample.strip()):
        return True
    plain = _CITATION.sub("", prose)
    visible = len(plain) - plain.count(" ") - plain.count("\n") + 1
    lines = plain.count("\n") + 1
    return len(_SYMBOLS.findall(plain)) / visible > 0.05 or len(_KEYWORDS.findall(plain)) > max(1, 0.1 * lines)


def is_prose(text: str) -> bool:
    """Whether a text is made of sentences: no code, no log, no list of names."""
    sample = text[:SAMPLE]
    return not is_code(text) and len(_SENTENCE_END.findall(sample)) >= length_in_words(sample) / 60


def is_personal(text: str) -> bool:
    """Whether somebody speaks of himself: a long question of a person, rather than a retrieved text."""
    sample = text[:SAMPLE]
    found = len(_FIRST_PERSON.findall(sample))
    return found >= 3 and found > 0.008 * length_in_words(sample)


def _outside_fences(text: str) -> str:
    """The lines that stand in no fenced code."""
    if "```" not in text and "~~~" not in text:
        return text
    outside: list[str] = []
    fenced: list[str] = []
    fence = ""
    for line in text.split("\n"):
        mark = line.lstrip(" >")[:3]
        if fence:
            fenced.append(line)
            if mark == fence:
                fence, fenced = "", []
        elif mark in ("```", "~~~"):
            fence = mark
        else:
            outside.append(line)
    return "\n".join(outside + fenced)  # a fence that nothing closes is none: chunks of Markdown open them
