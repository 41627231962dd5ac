"""Segmentation: offsets, levels, structures, scripts and time."""

from __future__ import annotations

import time

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxcomp.errors import InputError
from ctxcomp.segment import DEFAULT_WHOLE, GAP, Kind, Units, segment
from ctxcomp_eval.bench import segmenters

LEVELS = ("passage", "paragraph", "sentence", "word")
SCRIPTS = [
    "Dr.", "U.S.", "e.g.", "end.", "end.[12]", '"Yes!"', "”", "（", "“你好。”", "。", "「行くぞ！」", "カタカナ", "ไทย",
    "เ", "กำ", "ខ្មែរ", "क्षि।", "؟", "👨‍👩‍👧", "🇩🇪", "👍🏽", "e\u0301", "\u0301", "\u3099", "\ud800", "\udc00", "\x00",
    "\u200b", "\ufeff", "\u200d",
]  # fmt: skip
PIECES = [
    *SCRIPTS, " ", "  ", "\t", "\n", "\r\n", "\n\n", "\r", "\x0b", "\x1c", "\u2028", "\u2029", "\xa0", "\u3000",
    "```", "~~~", "# ", "===", "---", "- ", "1. ", "2) ", "|", "|-|", "{", "}", '{"a": 1}', "[", "]", "[1]", "1.5",
    "https://a.b/c.d", "www.", "a@b.co", "a", "Word", ",",
]  # fmt: skip
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
SURROGATES = st.text(st.characters(categories=("Cs", "Cc", "Zs", "Mn", "Lo", "Po", "Ps", "Pe", "So", "Lu")))


def slices(text: str, units: Units) -> list[str]:
    return [text[a:b] for a, b in zip(units.start, units.end, strict=True)]


def cut(text: str, level: str = "sentence", **options) -> list[str]:
    return slices(text, segment(text, level, **options))


def kinds(text: str, level: str = "sentence") -> list[Kind]:
    return [Kind(k) for k in segment(text, level).kind]


# Offsets


def check_offsets(text: str, units: Units) -> None:
    assert units.start.dtype == units.end.dtype == np.int64
    assert units.kind.dtype == np.int8
    assert units.start.shape == units.end.shape == units.kind.shape == (len(units),)
    position = 0
    for start, end in zip(units.start.tolist(), units.end.tolist(), strict=True):
        assert position <= start < end <= len(text)
        assert not text[position:start].strip(GAP), "visible text between two units"
        assert text[start:end].strip(GAP) == text[start:end], "a unit is not tight"
        position = end
    assert not text[position:].strip(GAP)


@pytest.mark.parametrize("level", LEVELS)
@given(text=st.one_of(TEXTS, SURROGATES))
@settings(max_examples=400, deadline=None)
def test_units_and_gaps_give_back_the_text(level, text):
    check_offsets(text, segment(text, level))
    check_offsets(text, segment(text, level, whole=frozenset()))


@given(text=TEXTS)
@settings(max_examples=200, deadline=None)
def test_finer_levels_never_cross_a_block(text):
    edges = set(segment(text, "paragraph").start.tolist())
    for level in ("sentence", "word"):
        assert edges <= set(segment(text, level).start.tolist())


def test_gap_is_what_python_calls_space_and_two_more():
    assert {c for c in map(chr, range(0x110000)) if c.isspace()} | {"\u200b", "\ufeff"} == set(GAP)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("text", ["", " ", "\n\n", "\ufeff\u200b \r\n\t\x1c\u3000"])
def test_no_visible_character_no_units(level, text):
    assert len(segment(text, level)) == 0


def test_controls_and_surrogates_are_visible():
    assert cut("\x00 \ud800 a\u200db", "word") == ["\x00", "\ud800", "a\u200db"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((b"a",), "bytes"), (("a", "line"), "'line'"), (("a", "word", {"TEXT"}), "Kind")],
)
def test_errors_say_what_was_given(arguments, message):
    with pytest.raises(InputError, match=message):
        segment(*arguments[:2], **({"whole": arguments[2]} if len(arguments) > 2 else {}))


# Sentences


# ja-07 is a name that ends in a full stop: it would need a dictionary.
GOLD = [case for case in segmenters.load_cases("tune") if case["id"] != "ja-07"]


@pytest.mark.parametrize("case", GOLD, ids=lambda case: case["id"])
def test_gold_sentences(case):
    assert cut(case["text"]) == case["sentences"]


def test_boundary_f1_on_cases_not_tuned_on():
    split = segmenters.LIBRARIES["ctxcomp"]()
    assert segmenters.f1(segmenters.load_cases("report"), split) >= 0.97


def test_f1_counts_what_is_wrong():
    case = {"text": "One. Two. Three.", "sentences": ["One.", "Two.", "Three."]}
    assert segmenters.f1([case], lambda text: [(0, len(text))]) == 0.0
    assert segmenters.f1([case], lambda text: [(0, 4), (5, len(text))]) == pytest.approx(2 / 3)


def test_a_blank_line_ends_a_sentence_and_a_line_break_does_not():
    assert cut("one\ntwo\n \t\nthree\r\nfour\r\n\r\nfive") == ["one\ntwo", "three\r\nfour", "five"]


def test_a_number_that_opens_a_sentence_is_its_marker():
    assert cut("The end. IV. The scope. B. The law. 12. Then nothing.") == [
        "The end.", "IV. The scope.", "B. The law.", "12. Then nothing.",
    ]  # fmt: skip


def test_urls_are_never_cut():
    text = "Read https://a.org/x.y?q=1!z(2).Then_go. 看 https://zh.org/中。国 了。Mail a.b@c.org! Bye."
    for level in ("sentence", "word"):
        assert any("https://a.org/x.y?q=1!z(2).Then_go." in unit for unit in cut(text, level))
    assert kinds("See https://a.org/b. or (a.b@c.org), now", "word") == [
        Kind.TEXT, Kind.URL, Kind.TEXT, Kind.URL, Kind.TEXT,
    ]  # fmt: skip
    assert kinds("One.\n\nhttps://a.org/b\n\n@you and x@y") == [Kind.TEXT, Kind.URL, Kind.TEXT]


# Structures

CODE = "```python\nx = 1\n\n# not a heading\n- no item\n```"
TABLE = "| a | b |\n|---|:-:|\n| 1. | 2 |"
OBJECT = '{\n  "a": [1, 2],\n\n  "b": "x. Y"\n}'
DOCUMENT = f"""# Title. More

Setext title
------------
Intro text. Second one:
- first item. It has two sentences
  and a second line
* second item
  1. inner
{CODE}
After it. Again.
{TABLE}

{OBJECT}
{{"id": 1}}
{{"id": 2}}

---
~~~
open fence

to the end."""
DOCUMENT_UNITS = [
    ("# Title. More", Kind.HEADING),
    ("Setext title\n------------", Kind.HEADING),
    ("Intro text.", Kind.TEXT),
    ("Second one:", Kind.TEXT),
    ("- first item. It has two sentences\n  and a second line", Kind.LIST_ITEM),
    ("* second item", Kind.LIST_ITEM),
    ("1. inner", Kind.LIST_ITEM),
    (CODE, Kind.CODE),
    ("After it.", Kind.TEXT),
    ("Again.", Kind.TEXT),
    (TABLE, Kind.TABLE),
    (OBJECT, Kind.JSON),
    ('{"id": 1}', Kind.JSON),
    ('{"id": 2}', Kind.JSON),
    ("---", Kind.TEXT),
    ("~~~\nopen fence\n\nto the end.", Kind.CODE),
]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_structures_stay_whole(newline):
    text = DOCUMENT.replace("\n", newline)
    wanted = [(unit.replace("\n", newline), kind) for unit, kind in DOCUMENT_UNITS]
    assert list(zip(cut(text), kinds(text), strict=True)) == wanted


def test_words_cut_items_and_headings_but_not_code():
    assert cut(f"## A title\n- one item,\n{CODE}", "word") == ["##", "A", "title", "-", "one", "item,", CODE]
    assert cut(TABLE, "word") == [TABLE]


def test_whole_decides_what_is_cut():
    assert cut("- One. Two.", whole=frozenset()) == ["- One.", "Two."]
    assert cut(TABLE, whole=DEFAULT_WHOLE["sentence"] - {Kind.TABLE}) == TABLE.split("\n")
    assert cut("One. Two.", whole=frozenset(Kind)) == ["One. Two."]
    assert kinds(TABLE) == [Kind.TABLE]


@pytest.mark.parametrize(
    "text",
    [
        "He was born in\n1986. He died in\n2001. Nothing else\n- is known.",
        "The cost [1]\n[12] and a | b\nmore.",
        "Use `a` and ```b``` here\n{not json}\n#hashtag now.",
        "5. Mai",
    ],
)
def test_prose_that_looks_like_structure(text):
    assert Kind.CODE not in kinds(text)
    assert Kind.TABLE not in kinds(text)
    assert Kind.JSON not in kinds(text)
    assert Kind.HEADING not in kinds(text)


def test_a_year_at_the_start_of_a_wrapped_line_is_no_item():
    assert kinds("He was born in\n1986. He left in\n201. Then") == [Kind.TEXT] * 3
    assert kinds("Steps:\n1. a\n2. b\n3) c") == [Kind.TEXT] + [Kind.LIST_ITEM] * 3


@pytest.mark.parametrize(
    ("text", "is_json"),
    [
        ('{"a": 1}', True), ('["a", {"b": 2}]', True), ('{"a": 1},', True), ("[]", False), ("[1, 2]", False),
        ("[12]", False), ("[" * 5000 + "]" * 5000, False), ("[" * 300 + "]" * 300, False),
        ("[" * 100 + "7" + "]" * 100, True),
        ('{"a": 1} is an object', False), ('{"a": }', False), ("{x}", False),
        ('{"n": ' + "9" * 5000 + "}", True),
    ],
)  # fmt: skip
def test_json_is_what_parses(text, is_json):
    assert (kinds(text) == [Kind.JSON]) is is_json


def test_paragraphs_and_passage():
    text = " \nA b.\nC d.\n\n- x\n- y\n "
    assert cut(text, "paragraph") == ["A b.\nC d.", "- x", "- y"]
    assert cut(text, "passage") == ["A b.\nC d.\n\n- x\n- y"]


# Words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("In Paris, he (then 30) said “no”.", ["In", "Paris,", "he", "(then", "30)", "said", "“no”."]),
        ("don't e-mail U.S. 3.14", ["don't", "e-mail", "U.S.", "3.14"]),
        ("他说：“好。”走了", ["他", "说：", "“好。”", "走", "了"]),
        ("用 iPhone15买3.5元的https://a.b/c?d=1。好", "用 iPhone15 买 3.5 元 的 https://a.b/c?d=1。 好".split()),
        ("コンピュータを使う。", ["コンピュータ", "を", "使", "う。"]),
        ("ไทยเก่ง", ["ไ" + "ท", "ย", "เก่", "ง"]),
        ("오늘은 좋다.", ["오늘은", "좋다."]),
        ("好👨‍👩‍👧🇩🇪好👍🏽", ["好", "👨‍👩‍👧🇩🇪", "好", "👍🏽"]),
    ],
)  # fmt: skip
def test_words(text, words):
    assert cut(text, "word") == words


CLUSTERS = st.sampled_from([*"漢字かなカナー。、「」（）กำเแไ์ខែရာ", *SCRIPTS, " ", "Word"])


@given(st.lists(CLUSTERS, max_size=20).map("".join))
@settings(max_examples=500, deadline=None)
def test_no_unit_ends_inside_a_grapheme_cluster(text):
    edges = {0} | {match.end() for match in regex.finditer(r"\X", text)}
    for level in ("sentence", "word"):
        units = segment(text, level)
        for end in units.end.tolist():
            # A mark on white space is a cluster that tight units must open.
            assert end in edges or text[end] in GAP or text[end - 1] in GAP


@pytest.mark.parametrize("text", ["ภาษาไทย" * 3000, "漢字" * 8000, "カ" * 20000, "ខ្មែរ" * 4000])
def test_long_unspaced_runs_are_cut(text):
    units = segment(text, "word")
    assert (units.end - units.start).max() <= 16


def test_long_thai_lines_are_cut_at_spaces():
    assert max(map(len, cut("ประเทศไทยอยู่ในเอเชีย " * 50))) < 60


# Time

HOSTILE = [
    "a", ".", "(", "\n", "`", "```\n", "1.", '"', "“a. ", "Dr. ", "A. ", "- a\n", "[\n", "{\n", '{"a":\n', "|\n",
    "[1", ".[1]", "a@", "www.", "漢", "漢.", "เ", "* ", "=\n", "-\n", "http://", "'' ", "#", "abc.1,", "👩\u200d",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_texts_take_linear_time(piece):
    """Quadratic work on 100,000 characters takes many seconds; the linear one some 0.1 s."""
    text = piece * (100_000 // len(piece))
    for level in ("sentence", "word"):
        begin = time.process_time()
        segment(text, level)
        assert time.process_time() - begin < 3
