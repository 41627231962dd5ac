"""Numbers in text and what they may mean: digits of any script, grouped or decimal, scales, words, Chinese numerals."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

_SCALES = {
    "hundred": 100, "thousand": 1_000, "million": 10**6, "millions": 10**6, "billion": 10**9, "billions": 10**9,
    "trillion": 10**12, "mn": 10**6, "bn": 10**9, "mio": 10**6, "mrd": 10**9, "tausend": 1_000, "millionen": 10**6,
    "milliarde": 10**9, "milliarden": 10**9, "mille": 1_000, "milliard": 10**9, "milliards": 10**9, "mil": 1_000,
    "millón": 10**6, "millones": 10**6, "milione": 10**6, "milioni": 10**6, "miliardi": 10**9, "milhões": 10**6,
    "тысяч": 1_000, "тысячи": 1_000, "млн": 10**6, "миллион": 10**6, "миллионов": 10**6, "млрд": 10**9,
    "миллиардов": 10**9, "百": 100, "千": 1_000, "万": 10**4, "萬": 10**4, "億": 10**8, "亿": 10**8,
    "만": 10**4, "억": 10**8,
}  # fmt: skip
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen".split()
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_ENGLISH = {word: n for n, word in enumerate(_UNITS)} | {word: 10 * n for n, word in enumerate(_TENS, start=2)}
_BY_WORD = {
    3: "third drei trois tres tre três три", 4: "fourth vier quatre cuatro quattro quatro четыре",
    5: "fifth fünf cinq cinco cinque пять", 6: "sixth sechs seis шесть", 7: "seventh sieben siete sette sete семь",
    8: "eighth acht huit ocho otto oito восемь", 9: "ninth neun neuf nueve nove девять",
    10: "tenth zehn dix diez dieci dez десять", 2: "zwei deux dos dois два две", 11: "eleventh onze undici",
    12: "twelfth zwölf douze doce dodici doze dozen", 13: "thirteenth dreizehn treize trece tredici",
    14: "fourteenth vierzehn quatorze catorce", 15: "fifteenth fünfzehn quinze quince quindici",
    16: "sechzehn seize", 17: "siebzehn", 18: "achtzehn dieciocho", 19: "neunzehn diecinueve",
    20: "twentieth zwanzig vingt veinte venti vinte двадцать", 30: "dreißig trente treinta trenta тридцать",
    40: "vierzig quarante cuarenta quaranta сорок", 50: "fünfzig cinquante cincuenta пятьдесят",
    60: "sechzig soixante sesenta", 70: "siebzig setenta", 80: "achtzig ochenta", 90: "neunzig noventa",
    100: "hundert cent cien ciento cento сто",
}  # fmt: skip
_FOREIGN = {word: n for n, line in _BY_WORD.items() for word in line.split()}
_HAN_DIGITS = {c: n for n, c in enumerate("〇一二三四五六七八九")} | {"零": 0, "两": 2, "兩": 2}
_HAN_SCALES = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "萬": 10**4, "億": 10**8, "亿": 10**8}
_HAN_COUNTERS = "年月日号號時时分秒岁歳人名位元円圓个個次本件台倍%％"

_SCALE_WORDS = "|".join(sorted(map(re.escape, _SCALES), key=len, reverse=True))
_BODY = r"\d+(?:[.,'’٬٫\u00a0\u202f]\d+)*"
_DIGITS = re.compile(
    rf"{_BODY}(?:(?:[ \u00a0\u202f-]?(?P<scale>{_SCALE_WORDS}))(?!\w)|(?P<han>[百千万萬億亿만억]+))?",
    re.IGNORECASE,
)
_FRACTION = re.compile("[¼½¾⅐-⅞]")
_PLAIN = "|".join([*_ENGLISH, "hundred", "thousand", "million", "billion", "trillion"])
_WORDS = re.compile(rf"(?<!\w)(?:{_PLAIN})(?:(?:[ -]| and )(?:{_PLAIN}))*(?!\w)", re.IGNORECASE)
_OTHER = re.compile(rf"(?<!\w)(?:{'|'.join(_FOREIGN)})(?!\w)")
_GERMAN = re.compile(r"(?<!\w)(ein|zwei|drei|vier|fünf|sechs|sieben|acht|neun)und([a-zß]+zig)(?!\w)")
_HAN = re.compile(f"[{''.join(_HAN_DIGITS)}{''.join(_HAN_SCALES)}]+")


@dataclass(frozen=True, slots=True)
class Number:
    """A number at ``text[start:end]``: ``values`` are the ways to read it, ``bare`` that it may be no number at all."""

    start: int
    end: int
    values: frozenset[Decimal]
    bare: bool = False


def numbers(text: str) -> list[Number]:
    """Every number of a text, in order of kind; "1.234" has two readings, "3 million" only the scaled one."""
    return [*_written(text), *_worded(text), *_chinese(text)]


def _written(text: str) -> Iterator[Number]:
    for match in _DIGITS.finditer(text):
        body = re.match(_BODY, match[0])
        values = _readings(body[0] if body else match[0])
        scale = Decimal(_SCALES.get((match["scale"] or "").lower(), 1))
        for sign in match["han"] or "":
            scale *= _SCALES[sign]
        yield Number(match.start(), match.end(), frozenset(value * scale for value in values))
    for match in _FRACTION.finditer(text):
        yield Number(match.start(), match.end(), frozenset({Decimal(str(unicodedata.numeric(match[0])))}))


def _readings(digits: str) -> frozenset[Decimal]:
    """What digits with separators may mean: groups of three, a decimal fraction, or both."""
    plain = "".join(str(unicodedata.digit(c)) if c.isdigit() else c for c in digits)
    marks = re.findall(r"\D", plain)
    groups = re.split(r"\D", plain)
    if not marks:
        return frozenset({Decimal(plain)})
    found = set()
    grouped = all(len(group) == 3 for group in groups[1:]) and len(groups[0]) <= 3
    if grouped and len(set(marks)) == 1:
        found.add(Decimal("".join(groups)))
    if len(marks) == 1 or (len(set(marks)) == 2 and len(set(marks[:-1])) == 1):
        found.add(Decimal("".join(groups[:-1]) + "." + groups[-1]))
    # "1.2.3" is no number: only the same digits say the same; negative, so that no number is equal to it.
    return frozenset(found or {-Decimal("".join(group.zfill(4) for group in groups) + "1")})


def _worded(text: str) -> Iterator[Number]:
    for match in _WORDS.finditer(text):
        words = [word for word in re.split(r"[ -]", match[0].lower()) if word != "and"]
        for run in _split(words):
            bare = run == ["one"] or all(word in _SCALES for word in run)
            yield Number(match.start(), match.end(), frozenset({Decimal(_english(run))}), bare)
    for match in _OTHER.finditer(text):
        yield Number(match.start(), match.end(), frozenset({Decimal(_FOREIGN[match[0]])}))
    for match in _GERMAN.finditer(text):
        value = {"ein": 1, **_FOREIGN}[match[1]] + _FOREIGN.get(match[2], 0)
        yield Number(match.start(), match.end(), frozenset({Decimal(value)}))


def _split(words: list[str]) -> list[list[str]]:
    """Runs that are one number each: "one two" is two of them."""
    runs = [[words[0]]]
    for before, word in pairwise(words):
        tens = before in _TENS and 0 < _ENGLISH.get(word, 0) < 10
        if word in _SCALES or before in _SCALES or tens:
            runs[-1].append(word)
        else:
            runs.append([word])
    return runs


def _english(words: list[str]) -> int:
    total, current = 0, 0
    for word in words:
        if word == "hundred":
            current = max(current, 1) * 100
        elif word in _SCALES:
            total, current = total + max(current, 1) * _SCALES[word], 0
        else:
            current += _ENGLISH[word]
    return total + current


def _chinese(text: str) -> Iterator[Number]:
    for match in _HAN.finditer(text):
        if text[match.start() - 1 : match.start()].isdigit():
            continue  # a scale after digits, which is read with them
        after = text[match.end() : match.end() + 1]
        alone = match[0] == "一" or (len(match[0]) == 1 and after not in tuple(_HAN_COUNTERS))
        yield Number(match.start(), match.end(), frozenset({Decimal(_han(match[0]))}), alone)


def _han(run: str) -> int:
    if not any(c in _HAN_SCALES for c in run):
        return int("".join(str(_HAN_DIGITS[c]) for c in run))
    total, section, digit = 0, 0, 0
    for c in run:
        if c in _HAN_DIGITS:
            digit = _HAN_DIGITS[c]
        elif _HAN_SCALES[c] >= 10**4:
            total, section, digit = total + max(section + digit, 1) * _HAN_SCALES[c], 0, 0
        else:
            section, digit = section + max(digit, 1) * _HAN_SCALES[c], 0
    return total + section + digit
