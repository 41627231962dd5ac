"""What kind of value a cell shows: its number format string, else one of nine types told by rules."""

from __future__ import annotations

import re

import numpy as np

from ctxcomp.tables.grid import Ints, Kind, Sheet

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|sept|oct|nov|dec)[a-z]*\.?"
_SIGN = r"[-+−(]?\s?"
_MONEY = r"(?:[$€£¥₹]|USD|EUR|GBP|CHF|JPY)"
_RULES = {
    "Year": r"(?:1[5-9]|20)\d\d",
    "IntNum": rf"{_SIGN}{_NUMBER}\)?",
    "FloatNum": rf"{_SIGN}(?:{_NUMBER}?\.\d+|{_NUMBER}\.)\)?",
    "Percentage": rf"(?=.*\d){_SIGN}{_NUMBER}?\.?\d*\s?%\)?",
    "ScientificNum": r"[-+−]?\d+(?:\.\d*)?[eE][-+]?\d+",
    "DateData": r"\d{4}-\d\d?-\d\d?(?:[ T]\d\d?:\d\d(?::\d\d(?:\.\d+)?)?)?|\d{1,4}[/.]\d\d?[/.]\d{2,4}"
    rf"|(?i:\d\d?[- ]{_MONTH}[- ]\d{{2,4}}|{_MONTH}[- ]\d\d?,? \d{{4}}|{_MONTH}[- ]\d{{4}})",
    "TimeData": r"\d{1,3}:\d\d(?::\d\d(?:\.\d+)?)?(?: ?[AaPp]\.?[Mm]\.?)?",
    "Currency": rf"{_SIGN}(?:{_MONEY}\s?{_SIGN}{_NUMBER}(?:\.\d+)?|{_NUMBER}(?:\.\d+)?\s?{_MONEY})\)?",
    "EmailData": r"[^@\s]{1,64}@[^@\s.]+(?:\.[^@\s.]+)+",
}
TYPES = tuple(_RULES)
"""The nine types; their names are those of the paper's prompts."""
LONGEST = 100
"""Characters: no value of a type is longer."""
NUMERIC = frozenset({"Year", "IntNum", "FloatNum", "Percentage", "ScientificNum", "Currency"})

_ANY = re.compile("|".join(f"(?P<{name}>{rule})" for name, rule in _RULES.items()))
_NO_FORMAT = frozenset({"", "General", "@", "GENERAL", "general"})


def data_type(text: str) -> str:
    """One of `TYPES`, or "" for anything else."""
    text = text.strip()
    if len(text) > LONGEST or not text:
        return ""
    found = _ANY.fullmatch(text)
    return found.lastgroup or "" if found else ""


def infer_kind(text: str) -> Kind:
    """The kind of a value that is only known as text, from a CSV file or a Markdown table."""
    found = data_type(text)
    if found in NUMERIC:
        return Kind.NUMBER
    if found in ("DateData", "TimeData"):
        return Kind.DATE
    stripped = text.strip()
    if stripped.upper() in ("TRUE", "FALSE"):
        return Kind.BOOL
    return Kind.ERROR if stripped in ERRORS else Kind.TEXT


ERRORS = frozenset({"#DIV/0!", "#N/A", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!", "#GETTING_DATA", "#SPILL!"})


def labels(sheet: Sheet) -> tuple[Ints, list[str]]:
    """The format or type of each cell, int64 ``[n]``, -1 where it has none; and what the numbers stand for.

    A number format string says most and comes first; without one the text decides.
    """
    formatted = np.isin(sheet.kind, (Kind.NUMBER, Kind.DATE))
    plain = np.array([f in _NO_FORMAT for f in sheet.formats], bool)
    by_format = formatted & ~plain[sheet.format]
    names: dict[str, int] = {}
    found = np.full(len(sheet), -1, np.int64)
    for cells, codes, by_number in ((by_format, sheet.format, sheet.formats), (~by_format, sheet.text, None)):
        used, place = np.unique(codes[cells], return_inverse=True)
        named = [data_type(sheet.texts[i]) if by_number is None else by_number[i] for i in used.tolist()]
        numbers = np.array([names.setdefault(name, len(names)) if name else -1 for name in named], np.int64)
        if len(used):
            found[cells] = numbers[place]
    return found, list(names)
