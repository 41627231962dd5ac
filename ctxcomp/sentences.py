"""Where sentences end: one regular expression finds candidates, a few rules about their neighbours judge them.

No language is asked for: the rules see letters, case and scripts. In doubt two sentences stay together, because a
unit that is a bit long costs less than one that starts in the middle. Thai and Lao have no sentence marks: there
a space between two letters ends a unit once it has ``_THAI_UNIT`` characters.
"""

from __future__ import annotations

import re
import unicodedata

from ctxcomp.blocks import GAP

_OPENERS = "\"'“”„‘‚’«»‹›([{「『（【《〈¿¡`—–-*_"
_CLOSERS = "\"'”’“»›)\\]}」』）】〕》〉＂*_"
_WIDE = "。！？｡．"
# Scripts whose sentence marks need no space after them.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff01-\uff9f\U00020000-\U0003ffff"
)
_TERMINAL = f".!?…‼⁇⁈⁉؟۔।॥։።፧။។៕᠃\u037e{_WIDE}"
_CLOSED = rf"[{_TERMINAL}]*+(?:[{_CLOSERS}]|[ \xa0\u202f](?:''|»))*+"
# One leading character class, so that the search runs at the speed of a byte scan. ";" is the Greek question mark.
_CANDIDATE = re.compile(
    rf"(?P<mark>[{_TERMINAL};])(?:(?<=[\u0370-\u03ff];)(?=[{GAP}])|(?<!;){_CLOSED}(?:(?P<last>[{_TERMINAL}]){_CLOSED})*+"
    r"(?:\[[\w ,.;:\-–]{1,30}\])*+(?P<note>(?<=[a-z]{3}\.)[0-9]{1,3}(?:[,–-][0-9]{1,3})*+)?"
    rf"(?:(?=[{GAP}]|\Z)|(?=[{_UNSPACED}])(?<![.…])))"
)
_WORD_AFTER = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_ACRONYM = re.compile(r"(?:[^\W\d_]{1,3}[.-]{1,2})+[^\W\d_]{1,3}")
_NUMERAL = re.compile(r"[0-9IVXLC]")
_MARKER = re.compile(r"[0-9]{1,3}|[^\W\d_]|[IVXLC]{2,6}")  # "2. Scope", "B. Scope", "IV. Scope"
_SAYS = re.compile("[^。！？，、；\n]{0,8}[说說道问問喊叫答笑]")
_THAI_SPACE = re.compile(rf"(?<=[\u0e01-\u0e5b\u0e81-\u0eff])[{GAP}]+(?=[\u0e01-\u0e4f\u0e81-\u0ecf])")
_THAI = re.compile("[\u0e01-\u0eff]")
_THAI_UNIT = 20

_WORD_LIMIT = 32
"""How far back the word before a mark is looked for; longer ones are no abbreviations."""

# A word before a full stop that never ends a sentence.
_TITLES = frozenset(
    "dr mr mrs ms mx prof gen lt col sgt capt cpt cmdr maj adm gov sen rep hon rev fr msgr pres supt det mt ft vs "
    "cf viz approx ca resp incl esp assoc dept univ e.g i.e eg ie z.b d.h u.a v.a o.ä a.k.a sr sra sres dra drs "
    "srta mme mlle mgr sig sigg dott ing avv bzw bzgl evtl ggf sog vgl zzgl inkl geb gest hrsg dhr mevr mw bijv "
    "d.w.z p.ej ee ul np tzn tj św ул им св см рис стр др проф акад т.е т.к т.н डॉ पं प्रो स्व श्री doç yrd vb "
    "str dipl bcc ref refs".split()
)
# Ends a sentence only before a word that usually starts one.
_SHORT = frozenset(
    "inc corp co ltd llc plc bros jr etc al st ave blvd rd hwy jan feb mar apr jun jul aug sep sept oct nov dec "
    "ed eds est min hrs oz lb lbs tsp tbsp kg pct av usw ecc uu enz bhd univ natl intl u.s u.k rs ud uds gg г гг "
    "вв тыс млн руб calif conn mass minn wash penn ariz colo okla".split()
)
# Abbreviates only before a numeral.
_COUNTED = frozenset(
    "no nos nr fig figs sec secs eq eqs vol vols p pp art arts chap ch tab tbl sect app par para op cl núm pág "
    "págs pag abs bd jh д кв гл".split()
)
_STARTERS = frozenset(
    "the a an it its this that these those he she they we you i his her their our my your in on at as if when "
    "while where who what why how but and or so then there here after before since although however also both all "
    "many some most nobody no not one for from with by to yes only another".split()
)
_GERMAN_DATE = frozenset(
    "januar februar märz april mai juni juli august september oktober november dezember jahrhundert jahrhunderts "
    "jahrhunderte lebensjahr jahrestag geburtstag".split()
)


def sentences(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The sentences of the prose in ``text[start:end]``.

    Parameters
    ----------
    text: any Unicode.
    start, end: a block of it without white space at either end, in characters.
    """
    spans = []
    begin = start
    has_url = text.find("://", start, end) >= 0
    for match in _CANDIDATE.finditer(text, start, end):
        stop = match.end()
        follow = stop
        while follow < end and text[follow] in GAP:
            follow += 1
        if follow < end and _ends(text, begin, match, follow, has_url):
            spans.append((begin, stop))
            begin = follow
    spans.append((begin, end))
    return _split_thai(text, spans) if _THAI.search(text, start, end) else spans


def _ends(text: str, begin: int, match: re.Match[str], follow: int, has_url: bool) -> bool:
    """Whether the marks that `match` found end the sentence that began at `begin`; `follow` starts the next word."""
    stop = match.end()
    group = "last" if match["last"] else "mark"
    mark = match[group]
    if text[follow] in _TERMINAL or text[follow] in ",;:)]}、，；：":
        return False
    if follow == stop and not _ends_unspaced(text, match, mark, has_url):
        return False
    after = follow
    while after < len(text) and after < follow + 8 and (text[after] in _OPENERS or text[after] in GAP):
        after += 1
    word = _WORD_AFTER.match(text, after, after + _WORD_LIMIT)
    following = word[0] if word else ""
    if following[:1].islower() and not (after == follow and following[1:2].isupper()):
        return False
    if mark != "." or match["note"]:
        return True
    marks = match.start(group)
    if text[marks - 1 : marks] == "." or text[marks + 1 : marks + 2] == ".":
        return True
    return _full_stop(text, begin, match.start(), after, following)


def _ends_unspaced(text: str, match: re.Match[str], mark: str, has_url: bool) -> bool:
    """Whether a mark with a letter right after it ends a sentence, as in Chinese and Japanese."""
    stop = match.end()
    if unicodedata.category(text[stop])[0] == "M" or text[stop] in "\u0e33\u0eb3":  # inside a grapheme cluster
        return False
    if mark in "!?" and (has_url or ord(text[match.start() - 1]) < 0x2E80):
        return False
    quoted = text[stop - 1] in '」』”’》〉"'
    return not (quoted and ("\u3041" <= text[stop] <= "\u309f" or text[stop] >= "\uac00" or _SAYS.match(text, stop)))


def _full_stop(text: str, begin: int, dot: int, after: int, following: str) -> bool:
    """Whether the full stop at `dot` is more than the end of an abbreviation, an initial or an ordinal."""
    # Tokenised text has a space before the full stop: "Gov ."
    before = text[max(begin, dot - _WORD_LIMIT) : dot].split()
    word = before[-1].lstrip(_OPENERS) if before else ""
    if not word:
        return True
    lower = word.lower()
    starts = following.lower() in _STARTERS and following[:1].isupper()
    if dot - len(word) == begin and _MARKER.fullmatch(word):
        return False
    if word.isdigit():
        return following.lower() not in _GERMAN_DATE
    if lower in _TITLES or lower.endswith("str"):
        return False
    if lower in _COUNTED:
        return not (_NUMERAL.match(text, after) or text[after : after + 1] == "§") or (starts and len(following) > 1)
    if len(word) == 1 and word.isalpha():
        return starts or (word == "I" and text[max(0, dot - 3) : dot - 2].islower())
    if lower in _SHORT or _ACRONYM.fullmatch(word):
        return starts
    return True


def _split_thai(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    pieces = []
    for begin, end in spans:
        for space in _THAI_SPACE.finditer(text, begin, end):
            if space.start() - begin >= _THAI_UNIT:
                pieces.append((begin, space.start()))
                begin = space.end()
        pieces.append((begin, end))
    return pieces
