"""Words: what stands between white space, with its punctuation; scripts without spaces are cut further.

A run with Chinese, Japanese, Thai, Lao, Khmer, Burmese ... letters is cut into grapheme clusters (katakana: runs of
up to 16, embedded Latin words and numbers: whole), each with the opening marks before and the closing marks after it.
"""

from __future__ import annotations

import re

import regex

from ctxcomp.blocks import GAP

_RUN = re.compile(rf"[^{GAP}]+")
_CONTINUOUS = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\u2e80-\u2fff\u3005-\u3007\u3021-\u312f"
    "\u31a0-\u31ff\u3400-\ua4cf\ua980-\ua9df\uf900-\ufaff\uff66-\uff9f\U00016fe0-\U00018cff\U0001b000-\U0001b16f"
    "\U00020000-\U0003ffff]"
)
_URL_SIGNS = ("://", "@", "www.", "WWW.")
_URL_SIGN = re.compile("|".join(map(re.escape, _URL_SIGNS)))
_URL = regex.compile(
    r"[\p{Ps}\p{Pi}\"'<]*+(?:(?:[a-z][a-z0-9+.-]{1,15}+://|www\.)\S++|(?:mailto:)?[\w.+-]++@[\w-]++(?:\.[\w-]++)++\S*+)",
    regex.IGNORECASE,
)
_SCRIPTS = "".join(
    rf"\p{{{name}}}"
    for name in [
        "Han",
        "Hiragana",
        "Katakana",
        "Bopomofo",
        "Thai",
        "Lao",
        "Khmer",
        "Myanmar",
        "Tibetan",
        "Yi",
        "Tai_Le",
        "New_Tai_Lue",
        "Tai_Tham",
        "Javanese",
        "Balinese",
        "Tangut",
        "Nushu",
    ]
)
# What never starts a grapheme cluster: marks, joiners, Thai and Lao AM, half-width voicing.
_TAIL = r"[\p{M}\u200c\u200d\u0e33\u0eb3\uff9e\uff9f]*+"
_PLAIN = rf"[^{_SCRIPTS}\p{{P}}]"
_PIECE = regex.compile(
    rf"""(?:[\p{{Ps}}\p{{Pi}}¿¡]{_TAIL})*+
    (?:(?i:[a-z][a-z0-9+.-]{{1,15}}+://|www\.)[^\p{{Ps}}\p{{Pe}}\p{{Pi}}\p{{Pf}}、。，！？；：]++
      |(?:[\p{{Katakana}}ー]{_TAIL}){{1,16}}+
      |{_PLAIN}++(?:[.,'’:/@&_%+-]++{_PLAIN}++)*+
      |[เ-ไເ-ໄ]?(?=[{_SCRIPTS}])\X)?+
    {_TAIL}(?:[^\P{{P}}\p{{Ps}}\p{{Pi}}¿¡]{_TAIL})*+""",
    regex.VERBOSE,
)


def words(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The words of ``text[start:end]``, in characters."""
    runs = [match.span() for match in _RUN.finditer(text, start, end)]
    if not _CONTINUOUS.search(text, start, end):
        return runs
    spans = []
    for run in runs:
        if _CONTINUOUS.search(text, *run):
            spans += [piece.span() for piece in _PIECE.finditer(text, *run) if piece.end() > piece.start()]
        else:
            spans.append(run)
    return spans


def url_signs(text: str) -> list[int]:
    """Positions that only URLs and e-mail addresses have in prose: a cheap test before `is_url`."""
    if not any(sign in text for sign in _URL_SIGNS):
        return []
    return [match.start() for match in _URL_SIGN.finditer(text)]


def is_url(unit: str) -> bool:
    """Whether a unit is one URL or e-mail address, with the punctuation around it."""
    return _URL.fullmatch(unit) is not None
