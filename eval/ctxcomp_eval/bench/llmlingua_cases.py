"""Random calls of LLMLingua-2: text of many kinds and every parameter that it heeds."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

SNIPPETS = (
    "def f(x):\n    return x ** 2  # the square\n\nprint(f(12), f(-3.5))\n",
    '{"name": "Ada", "born": 1815, "tags": ["maths", "poetry"], "nested": {"ok": true}}',
    "| year | place |\n|---|---|\n| 1871 | London |\n| 1872 | Edinburgh |\n",
    "Speaker 1: Well, um, I think -- I mean, we should (probably) vote. Speaker 2: OK!! Let's do it?? Yes.\n",
    "See https://example.org/a.b?c=1&d=2 or mail x.y@z.com; cf. [12], (3), #4 -- 50% off, $9.99 & more...",
    "北京是中国的首都。東京は日本の首都です。서울은 한국의 수도입니다。",
    "مرحبا بالعالم، كيف حالك؟ नमस्ते दुनिया। Привет, мир! Γειά σου Κόσμε. ไทยแลนด์",
    "naïve façade Zoë coöperate ﬁne ①② Ⅳ ½ é \u00a0nbsp\u200bzero\ufeffwidth",
    "😀👩‍👩‍👧 🇩🇪 ☃ ✓ → ∑∫ 𝒳 𠀀 \u0301combining",
    "antidisestablishmentarianism 1234567890123 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa !!!!!????....",
    "\n\n\t  spaced   out \r\n lines \n", "[CLS] [SEP] [UNK] [MASK] <s> </s> <unk> <mask> [NEW3] ## ##ing ▁x",
    ". . . ? ? ! ! ,,,, ... ((())) -- \"\" ''", "the the the not not no No. the",
)  # fmt: skip
FORCED = ["\n", ".", "?", "!", ",", "the", "not", "multi word", "quizzical", "12", "北", "(", "\t", "##", "Ada", "▁the"]


def cases(n: int, seed: int, prose: Sequence[str]) -> Iterator[dict[str, Any]]:
    """``n`` calls; the same seed and prose give the same ones."""
    rng = random.Random(seed)
    for _ in range(n):
        call = _structured if rng.random() < 0.06 else _plain
        yield call(rng, prose)


def _plain(rng: random.Random, prose: Sequence[str]) -> dict[str, Any]:
    arguments: dict[str, Any] = {"context": _contexts(rng, prose)}
    for name, draw in _DRAWS.items():
        if rng.random() < 0.35:
            arguments[name] = draw(rng)
    return {"method": rng.choice(["compress_prompt", "compress_prompt_llmlingua2"]), "arguments": arguments}


def _structured(rng: random.Random, prose: Sequence[str]) -> dict[str, Any]:
    plain = [text.replace("<", " ") for text in _contexts(rng, prose)]
    arguments: dict[str, Any] = {"context": [f"<llmlingua>{t}</llmlingua>" if rng.random() < 0.5 else t for t in plain]}
    if rng.random() < 0.7:
        arguments["rate"] = _DRAWS["rate"](rng)
    if rng.random() < 0.3:
        arguments["target_token"] = rng.randint(1, 200)
    if rng.random() < 0.3:
        arguments["concate_question"] = False
    return {"method": "structured_compress_prompt", "arguments": arguments}


def _contexts(rng: random.Random, prose: Sequence[str]) -> list[str]:
    return [_text(rng, prose) for _ in range(rng.choice([1, 1, 1, 2, 2, 3, 5, 8]))]


def _text(rng: random.Random, prose: Sequence[str]) -> str:
    kind = rng.random()
    if kind < 0.45:
        text = rng.choice(prose)
        start = rng.randrange(max(1, len(text) // 2))
        return text[start : start + rng.randint(1, 1200)]
    if kind < 0.55:
        return " ".join(rng.choice(prose) for _ in range(rng.randint(2, 8)))
    if kind < 0.85:
        return rng.choice(["", " ", "\n"]).join(rng.choice(SNIPPETS) for _ in range(rng.randint(1, 6)))
    if kind < 0.95:
        planes = [(32, 127), (160, 0x2FF), (0x370, 0x5FF), (0x600, 0x6FF), (0x3000, 0x30FF), (0x4E00, 0x9FFF),
                  (0x1F300, 0x1F6FF), (0, 31), (0x300, 0x36F), (0x2000, 0x206F)]  # fmt: skip
        return "".join(chr(rng.randint(*rng.choice(planes))) for _ in range(rng.randint(1, 80)))
    return rng.choice(["", " ", "\n", "a", ".", "12", "北"])


_DRAWS: dict[str, Any] = {
    "rate": lambda rng: rng.choice([0.0, 0.01, 0.1, 0.2, 0.33, 0.5, 0.66, 0.9, 0.99, 1.0, 1.5, round(rng.random(), 3)]),
    "target_token": lambda rng: rng.choice([-1, 0, 1, 5, 20, 60, 150, 500, 5000]),
    "use_context_level_filter": lambda rng: rng.random() < 0.6,
    "use_token_level_filter": lambda rng: rng.random() < 0.6,
    "target_context": lambda rng: rng.choice([-1, 0, 1, 2, 3, 9]),
    "context_level_rate": lambda rng: rng.choice([1.0, 0.0, 0.3, 0.5, 0.8, 1.2]),
    "context_level_target_token": lambda rng: rng.choice([-1, 0, 10, 100, 400]),
    "force_context_ids": lambda rng: rng.sample(range(4), rng.randint(0, 3)),
    "return_word_label": lambda rng: True,
    "word_sep": lambda rng: rng.choice(["|", "\t\t|\t\t"]),
    "label_sep": lambda rng: rng.choice(["=", " "]),
    "token_to_word": lambda rng: rng.choice(["mean", "first"]),
    "force_tokens": lambda rng: rng.sample(FORCED, rng.randint(0, 5)),
    "force_reserve_digit": lambda rng: rng.random() < 0.7,
    "drop_consecutive": lambda rng: rng.random() < 0.7,
    "chunk_end_tokens": lambda rng: rng.choice([[".", "\n"], ["."], [], ["\n", "?"], ["the", ","]]),
}
