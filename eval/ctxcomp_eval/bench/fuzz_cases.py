"""Random requests and settings for the packer: every kind of text, layout and budget, from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ctxcomp.candidates import Candidates
from ctxcomp.compressor import Scores, Selector
from ctxcomp.errors import InputError
from ctxcomp.segment import Level
from ctxcomp.types import Budget, Passage, Request
from ctxcomp_eval.bench.common import wiki_texts

Draw = Literal["normal", "ties", "equal", "negative", "huge"]
COUNTERS = ("o200k_base", "cl100k_base", "minilm")
HEADERS = (None, None, "[{id}] {title}\n", "{number}. ", "# {title} ({score})\n\n", "<doc {{{id}}}>", "{title}")
ELISIONS = (
    None,
    None,
    "[…]",
    "...",
    "[… {units} left out of {id}:{start}-{end}]",
    "\n<cut {title} {number}>\n",
    "{title}",
)
SEPARATORS = ("\n\n", "\n\n", "\n", "", " ", "\n---\n", " | ")
PROTECTS: tuple[tuple[str, ...], ...] = (
    ("digits",),
    ("quotes",),
    ("digits", "quotes"),
    (r"[A-Z]\w+", "not"),
    ("[一-鿿]",),
)
GAPS = ("", " ", " ", " ", "\n", "\n\n", "  ", "\t", "\r\n", "\r\n\r\n", "\u3000", "\u200b", "\ufeff", "\x85", "\u2028")
RANGES = (
    (0x20, 0x7E), (0x00, 0x1F), (0x7F, 0xFF), (0x100, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x6FF),
    (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x2000, 0x206F), (0x20D0, 0x20FF), (0x3000, 0x30FF),
    (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xD800, 0xDFFF), (0xE000, 0xF8FF), (0xFB50, 0xFDFF), (0xFE00, 0xFE0F),
    (0xFF00, 0xFFFF), (0x10000, 0x1FFFF), (0x1F300, 0x1FAFF), (0x20000, 0x2FFFF), (0xE0000, 0xE01EF),
    (0xF0000, 0x10FFFF),
)  # fmt: skip
PROSE = (
    "Middlemarch is a novel by the English author George Eliot. It appeared in eight parts in 1871 and 1872.",
    "Dr. Smith paid $3.50 (about 12%) for it, i.e. too much! \"Was it worth it?\" he asked… \"No.\"",
    "东京是日本的首都。人口约1400万人！它在1868年成为首都？是的。",
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
    "القاهرة هي عاصمة مصر. يبلغ عدد سكانها ٢٢ مليون نسمة؟ نعم، تقريبا.",
    "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย มีประชากรสิบล้านคน และเป็นเมืองที่ใหญ่ที่สุด",
    "दिल्ली भारत की राजधानी है। यहाँ ३ करोड़ लोग रहते हैं।",
)  # fmt: skip
MARKUP = (
    "# Heading\n\n- first item, 12 pieces\n- second item\n  wrapped line\n1. one\n2. two",
    "| name | value |\n|---|---|\n| a | 1 |\n| b | 2 |",
    '```python\ndef f(x):\n    return x + 1  # not "done"\n```',
    '{"id": 7, "tags": ["a", "b"], "text": "«quoted» value"}',
    '[\n  {"a": 1},\n  {"b": null}\n]',
    "See https://example.org/a?b=1&c=%20d#e, or mail to jane.doe@example.org. www.example.com!",
    "👨‍👩‍👧‍👦 🇩🇪🇫🇷 👍🏽 ❤️ e\u0301\u0323 a\u0300\u0301\u0302\u0303",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "<|endoftext|> [UNK] [SEP] <s> </s> \ud83d\ude00 \udc00\ud800",
    "[…] ... --- *** === ''' \"\"\" {{}} {title}",
)


@dataclass(frozen=True, kw_only=True)
class GivenScores(Selector):
    """A selector whose scores come from a seed.

    Parameters
    ----------
    seed: another seed is another draw.
    draw: "normal" around 0, "ties" of five values, all "equal", all "negative", or "huge" in both directions.
    grouped: give `fit` groups of its own, each of up to seven neighbouring units.
    """

    seed: int = 0
    draw: Draw = "normal"
    grouped: bool = False

    def score(self, batch: Sequence[Candidates]) -> list[Scores]:
        """Drawn anew for each request from the same seed."""
        return [self.drawn(len(units)) for units in batch]

    def drawn(self, n: int) -> Scores:
        """The scores of ``n`` units."""
        rng = np.random.default_rng(self.seed)
        match self.draw:
            case "ties":
                return rng.integers(-2, 3, n).astype(np.float64)
            case "equal":
                return np.full(n, 0.5)
            case "negative":
                return -rng.random(n) - 1
            case "huge":
                return rng.normal(size=n) * 1e300
        return rng.normal(size=n)

    def groups(self, units: Candidates) -> NDArray[np.int64] | None:
        """Runs of neighbours, across passages."""
        size = 1 + self.seed % 7
        return np.arange(len(units), dtype=np.int64) // size if self.grouped else None


@dataclass(frozen=True, slots=True)
class Case:
    """One random fit."""

    method: GivenScores
    request: Request


def make_case(seed: int, index: int) -> Case:
    """Case number ``index`` of a seed: always the same."""
    rng = random.Random(f"{seed}-{index}")
    passages = tuple(_passage(rng) for _ in range(rng.choice((0, 1, 1, 2, 3, 5, 8, 12))))
    size = 1 + sum(len(p.text) for p in passages) // 3
    kinds = (Budget(keep=rng.choice((rng.uniform(0.001, 1), 0.5, 1.0))), Budget(tokens=rng.randint(0, size)))
    budget = rng.choice((*kinds, Budget(tokens=rng.randint(0, 12)), Budget(tokens=round(size * rng.random() ** 2))))
    method = GivenScores(
        seed=rng.randrange(1 << 30), draw=rng.choice(get_args(Draw)), grouped=rng.random() < 0.1, **_settings(rng)
    )
    return Case(method, Request(rng.choice(("", "who wrote it?")), passages, budget))


def _settings(rng: random.Random) -> dict[str, Any]:
    plain = rng.random() < 0.4
    return {
        "unit": rng.choice(get_args(Level)),
        "counter": rng.choice(COUNTERS),
        "separator": rng.choice(SEPARATORS),
        "header": rng.choice(HEADERS),
        "elision": rng.choice(ELISIONS),
        "allocate": rng.choice(("global", "passage")),
        "per_token": rng.random() < 0.3,
        "fill": rng.random() < 0.8,
        "floor_tokens": 0 if plain else rng.choice((0, 0, rng.randint(1, 40))),
        "cap_tokens": None if plain else rng.choice((None, None, rng.randint(0, 60))),
        "min_score": None if plain else rng.choice((None, None, rng.uniform(-1.5, 1.5))),
        "protect": rng.choice(PROTECTS) if not plain and rng.random() < 0.4 else (),
    }


def _passage(rng: random.Random) -> Passage:
    pieces = [_piece(rng) for _ in range(rng.choice((0, 1, 1, 2, 3, 6)))]
    text = "".join(part for piece in pieces for part in (piece, rng.choice(GAPS)))
    metadata = {}
    if rng.random() < 0.05:
        starts = [rng.randint(0, len(text)) for _ in range(rng.randint(1, 3))]
        metadata["protect"] = [[a, a + rng.randint(1, 30)] for a in starts]
    return Passage(
        text,
        id=rng.choice(("", "a", "doc-1", "{id}", "章")),
        title=rng.choice((None, "", "A title", "Der Titel: „Ende“", "题目\ud800", " padded \n")),
        score=rng.choice((None, 0.0, -1.5, rng.random(), 1e300)),
        metadata=metadata,
    )


def _piece(rng: random.Random) -> str:
    match rng.randrange(5):
        case 0:
            return rng.choice(MARKUP)
        case 1:
            return _characters(rng, rng.sample(RANGES, rng.randint(1, 3)), rng.randint(1, 60))
        case 2:
            text = rng.choice(PROSE)
            return text[: rng.randint(1, len(text))]
        case 3:
            return _characters(rng, RANGES, rng.randint(1, 30))
    text = rng.choice(_prose())
    start = rng.randrange(len(text))
    return text[start : start + rng.randint(1, 400)]


def _characters(rng: random.Random, ranges: Sequence[tuple[int, int]], n: int) -> str:
    """Random characters, a space after every sixth or so: words rather than one run."""
    return "".join(
        chr(rng.randint(*rng.choice(ranges))) + (" " if rng.random() < 0.15 else "") for _ in range(n)
    )  # fmt: skip


@cache
def _prose() -> tuple[str, ...]:
    """Real passages where the shared data is there, the few above where it is not."""
    try:
        return tuple(text for text in islice(wiki_texts(), 2000) if text)
    except InputError:
        return PROSE
