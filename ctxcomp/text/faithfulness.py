"""Is what a rewriter wrote in its source: every number and name of a text that no source holds.

Numbers compare by value ("3 million" is 3,000,000, "twelve" is 12), names letter by letter but for case, accents and a
final 's; two names stand together only where a source has them together, so that "John Smith" is not made of John
Brown and Mary Smith. A word is taken for a name by its capital, at the start of a sentence too unless it is a function
word or the source has it in lower case. Scripts without capitals show no names: there every word that the source lacks
is reported, in scripts without spaces every stretch of characters that it lacks. In doubt a claim is reported: German
nouns, inflected names and paraphrases in such scripts are, without being wrong.

Not seen: names in lower case, a wrong use of what the source does have ("12 %" of twelve people), and signs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import regex

from ctxcomp.segment import segment
from ctxcomp.text.bm25 import STOP_WORDS
from ctxcomp.text.numbers import numbers

_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]+")
_UNCASED = regex.compile(r"[\p{Lo}\p{M}]+(?:\p{Lo}|\p{M})*")
_LINKS = frozenset("of de la le du da di del della von van der den dem des zu al el bin y e".split())
_STARTERS = STOP_WORDS | frozenset(
    "about above according across additionally after against all also although among another any because before "
    "besides between both but despite due during each either even every few finally first following furthermore given "
    "hence here however instead its last later like many meanwhile more moreover most much no none nor note nothing "
    "now once one only other otherwise our over overall second several since some still such than then there "
    "therefore these those though through thus today together too two under unlike until up upon us very via we "
    "whether while within without yet yes you "
    "der die das ein eine einer er sie es wir im am und aber auch nach bei mit für von le la les un une il elle ils "
    "on en et mais dans pour avec ce cette el los las una lo es en y pero con por para o os as um uma e em no na il "
    "gli che per в на и но он она они это из по".split()
)
_CALENDAR = frozenset(
    "janvier février mars avril mai juin juillet août septembre octobre novembre décembre lundi mardi mercredi jeudi "
    "vendredi samedi dimanche enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre "
    "gennaio febbraio aprile maggio giugno luglio settembre ottobre novembre dicembre janeiro fevereiro março maio "
    "junho julho setembro outubro dezembro января февраля марта апреля мая июня июля августа сентября октября ноября "
    "декабря januari februari maart mei juni juli augustus".split()
)
"""Months and days that languages write small: a changed date must not pass."""
_ENDINGS = ("", "s", "es", "d", "ed", "ing", "ly", "al", "als", "er", "ers", "ion", "ions")


_TITLE = 3
"""Letters of an initial or a title before a full stop: "J.", "Mrs." """


@dataclass(frozen=True, slots=True)
class Claim:
    """``text[start:end]``: a number or a name that no source holds."""

    kind: Literal["number", "name"]
    text: str
    start: int
    end: int


def unsupported(text: str, sources: Sequence[str]) -> list[Claim]:
    """The numbers and names of a text that are in none of its sources, in the order of the text.

    Parameters
    ----------
    text: what was written.
    sources: all that it may draw on: the passages and their titles. Not the question, which may ask what is not so.
    """
    known = _known(tuple(sources))
    claims = [*_numbers(text, known), *_names(text, known), *_uncased(text, known)]
    claims.sort(key=lambda claim: (claim.start, -claim.end))
    # A name and the pair that it is part of, or a number and the identifier around it, are one claim.
    return [c for i, c in enumerate(claims) if not any(c.end <= other.end for other in claims[:i])]


def repaired(text: str, claims: Iterable[Claim]) -> str:
    """The text without the sentences that hold a claim; what is left of each line keeps its gaps."""
    units = segment(text, "sentence")
    spans = list(zip(units.start.tolist(), units.end.tolist(), strict=True))
    bad = [any(a < c.end and c.start < b for c in claims) for a, b in spans]
    kept = ""
    for i, ((a, b), drop) in enumerate(zip(spans, bad, strict=True)):
        if not drop:
            gap = text[spans[i - 1][1] : a] if i else ""
            kept += (gap if kept else "") + text[a:b]
    return kept


@dataclass(frozen=True)
class _Known:
    values: frozenset[Decimal]
    words: frozenset[str]
    """Folded words and their parts."""
    small: frozenset[str]
    """Those that occur in lower case."""
    pairs: frozenset[tuple[str, str]]
    characters: frozenset[str]
    bigrams: frozenset[str]
    folded: str


@lru_cache(maxsize=64)
def _known(sources: tuple[str, ...]) -> _Known:
    text = "\n\n".join(sources)
    tokens = list(_TOKEN.finditer(text))
    words = {fold(part) for token in tokens for part in [token[0], *_parts(token[0])]}
    small = {fold(token[0]) for token in tokens if token[0].islower()}
    pairs = {pair for source in sources for pair in _pairs(source)}
    stretches = [match[0] for match in _UNSPACED.finditer(text)]
    bigrams = {a + b for stretch in stretches for a, b in pairwise(stretch)}
    values = frozenset(value for number in numbers(text) for value in number.values)
    characters = frozenset("".join(stretches))
    return _Known(
        values, frozenset(words), frozenset(small), frozenset(pairs), characters, frozenset(bigrams), fold(text)
    )


@lru_cache(maxsize=65536)
def fold(word: str) -> str:
    """A word without case, accents and a final 's."""
    plain = unicodedata.normalize("NFKD", word.replace("’", "'"))
    bare = "".join(c for c in plain if not unicodedata.combining(c)).casefold()
    return bare.removesuffix("'s").removesuffix("'")


def _parts(word: str) -> list[str]:
    """What a source also holds with a word: Italie with "l'Italie", GPT with "GPT4"."""
    return re.findall(r"[^\W\d_]+", word)


def _numbers(text: str, known: _Known) -> Iterable[Claim]:
    for number in numbers(text):
        written = text[number.start : number.end]
        as_word = written.isalpha() and fold(written) in known.words
        if number.bare or number.values & known.values or as_word:
            continue
        yield Claim("number", written, number.start, number.end)


def _names(text: str, known: _Known) -> Iterable[Claim]:
    starts = _sentence_starts(text)
    named: re.Match[str] | None = None
    for token in _TOKEN.finditer(text):
        word, folded = token[0], fold(token[0])
        if word in _CALENDAR and folded not in known.words:
            yield Claim("name", word, *token.span())
        first = token.start() in starts
        if not _capital(word) or folded in _STARTERS or word == "I" or word.startswith(("I'", "I’")):
            named = named if named and folded in _LINKS else None
            continue
        if not _held(folded, word, known, first):
            yield Claim("name", word, *token.span())
            named = None
            continue
        if named and _is_new_pair(named[0], text[named.end() : token.start()], folded, known):
            yield Claim("name", text[named.start() : token.end()], named.start(), token.end())
        ends = word.endswith(("'s", "’s")) or (first and folded in known.small)
        named = None if ends else token


def _is_new_pair(before: str, gap: str, folded: str, known: _Known) -> bool:
    """Whether two capitalised words of a source stand together as in none: two common words are a title, no name."""
    pair = (fold(before), folded)
    together = "\n" not in gap and _joined(before, gap)
    return together and pair not in known.pairs and not known.small.issuperset(pair)


def _held(folded: str, word: str, known: _Known, first: bool) -> bool:
    """Whether a source has a capitalised word; at the start of a sentence also another form of a word in lower case."""
    if folded in known.words:
        return True
    parts = [fold(part) for part in _parts(word)]
    digits = [Decimal(number) for number in re.findall(r"\d+", word)]
    if ("'" in folded or digits) and all(p in known.words or len(p) < 2 for p in parts):
        return all(digit in known.values for digit in digits)
    return first and any(
        folded.removesuffix(old) + new in known.small
        for old in _ENDINGS
        if folded.endswith(old) and len(folded) - len(old) >= 4
        for new in (*_ENDINGS, "e")
    )


def _pairs(text: str) -> Iterable[tuple[str, str]]:
    """Capitalised words that stand together, perhaps with others of the name or a link between them."""
    run: list[str] = []
    before: re.Match[str] | None = None
    for token in _TOKEN.finditer(text):
        if before and not _joined(before[0], text[before.end() : token.start()]):
            run = []
        before = token
        folded = fold(token[0])
        if _capital(token[0]):
            yield from ((other, folded) for other in run)
            run.append(folded)
        elif folded not in _LINKS:
            run = []


def _joined(before: str, gap: str) -> bool:
    """Whether what follows a word lets the next one be of its name: a space, a hyphen, the point of an initial."""
    if gap.startswith(". "):
        return len(before) <= _TITLE
    return re.fullmatch(r"[ \u00a0\n]|[-–&]| & |(?: \w{1,5}){1,2} ", gap) is not None


def _capital(word: str) -> bool:
    return any(c.isupper() or c.istitle() for c in word)


def _sentence_starts(text: str) -> frozenset[int]:
    """Where the first word of each sentence, line or quotation begins."""
    units = segment(text, "sentence")
    begins = set(units.start.tolist()) | {m.end() for m in re.finditer(r"[\n:;•\"“«„(]\s*|^[-*–]\s+", text)}
    starts = set()
    for begin in begins:
        token = _TOKEN.search(text, begin)
        if token and not text[begin : token.start()].strip("\"'“”‘’«»([{-–—*•#> \t\n"):
            starts.add(token.start())
    return frozenset(starts)


def _uncased(text: str, known: _Known) -> Iterable[Claim]:
    unspaced = [match.span() for match in _UNSPACED.finditer(text)]
    for a, b in unspaced:
        yield from _stretches(text, a, b, known)
    covered = {i for a, b in unspaced for i in range(a, b)}
    for match in _UNCASED.finditer(text):
        if match.start() not in covered and len(match[0]) > 1 and fold(match[0]) not in known.folded:
            yield Claim("name", match[0], *match.span())


def _stretches(text: str, start: int, end: int, known: _Known) -> Iterable[Claim]:
    """Stretches of two new characters in a row, or of three that the source never has in a row."""
    fresh = [text[i] not in known.characters for i in range(start, end)]
    novel = [text[i : i + 2] not in known.bigrams for i in range(start, end - 1)]
    marked = set()
    for i, new in enumerate(fresh):
        if new and regex.match(r"[\p{Han}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]", text[start + i]):
            marked.add(i)
    for i in range(len(novel) - 1):
        if novel[i] and novel[i + 1]:
            marked |= {i, i + 1, i + 2}
    begin = None
    for i in range(end - start + 1):
        if i in marked and begin is None:
            begin = i
        elif i not in marked and begin is not None:
            yield Claim("name", text[start + begin : start + i], start + begin, start + i)
            begin = None
