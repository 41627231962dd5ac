"""Do invented numbers and names pass unreported? Plants in real passages, and a second look at what rewriters write.

The oracle knows nothing of the checker: what was planted is known, and apart from plants every run of digits and
every word with a capital inside a sentence of an output must stand in a source, letter for letter (a small number may
be spelled there), or in the notes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from ctxcomp import Budget, CompressedText, Request, load
from ctxcomp.compressor import Compressor
from ctxcomp.text.faithfulness import unsupported
from ctxcomp_eval.data import Example, data_dir, read_rows, sample
from ctxcomp_eval.data import load as load_examples
from ctxcomp_eval.retention import bootstrap

CARRIERS = {
    "en": "The committee met again in the spring. Its report was read by the members. Nobody asked for a vote.",
    "de": "Der Ausschuss traf sich im Frühling. Sein Bericht wurde verlesen. Niemand verlangte eine Abstimmung.",
    "fr": "Le comité se réunit au printemps. Son rapport fut lu aux membres. Personne ne demanda de vote.",
    "es": "El comité se reunió en la primavera. Su informe fue leído. Nadie pidió una votación.",
    "it": "Il comitato si riunì in primavera. La sua relazione fu letta. Nessuno chiese un voto.",
    "ru": "Комитет собрался весной. Его отчёт зачитали. Никто не потребовал голосования.",
    "zh": "委员会在春天开会。报告已经宣读。没有人要求表决。",
    "ja": "委員会は春に開かれた。報告書が読み上げられた。投票を求める人はいなかった。",
    "ar": "اجتمعت اللجنة في الربيع. وتمت قراءة التقرير. ولم يطلب أحد التصويت.",
    "hi": "समिति वसंत में मिली। रिपोर्ट पढ़ी गई। किसी ने मतदान नहीं माँगा।",
    "ko": "위원회는 봄에 모였다. 보고서를 읽었다. 아무도 투표를 요구하지 않았다.",
}
"""A source in each language; plants go into it, and it must not be reported itself."""
NUMBERS: dict[str, tuple[Callable[[int], str], ...]] = {
    "": (
        str, "{:,}".format, lambda n: f"{n / 100:.2f}", lambda n: f"{n}%", lambda n: f"${n % 97 + 3} million",
        lambda n: f"{n % 28 + 1}/{n % 12 + 1}/{1700 + n % 300}", lambda n: f"{1700 + n % 300}-0{n % 9 + 1}-1{n % 9}",
        lambda n: f"{n % 23 + 1}:{n % 49 + 10}", lambda n: f"{1500 + n % 500}s", lambda n: f"{n % 89 + 11}th",
    ),
    "en": (lambda n: f"{'twenty thirty forty fifty'.split()[n % 4]}-{'two three six seven'.split()[n % 4]}",),
    "de": (lambda n: f"{n % 900 + 100}.{n % 900 + 100}", lambda n: "zwölf vierzehn fünfundzwanzig".split()[n % 3]),
    "fr": (lambda n: "douze quatorze seize".split()[n % 3], lambda n: f"{n % 28 + 1} juillet {1700 + n % 300}"),
    "zh": (lambda n: f"{'三四五六七'[n % 5]}百二十{'三四五六七'[n % 5]}", lambda n: f"{n % 97 + 3}万"),
    "ja": (lambda n: f"{'三四五六七'[n % 5]}十{'三四五六七'[n % 5]}人",),
    "ar": (lambda n: str(n).translate(str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")),),
    "hi": (lambda n: str(n).translate(str.maketrans("0123456789", "०१२३४५६७८९")),),
}  # fmt: skip
NAMES = {
    "": "Quillfeather Ostrava Zebulon Hartwick Maple-Thorne O'Dwyer McAllister NATO-X iPhone Vandermeer Ypsilanti "
    "Jörgensen Łukasz Çelik Brzezinski QXR Tallahassee".split(),
    "ru": "Воронцов Екатеринбург Ольга".split(),
    "zh": "王芳 李小龙 乌鲁木齐 诸葛亮".split(),
    "ja": "山田太郎 札幌 カナダ".split(),
    "ar": "الإسكندرية فاطمة الخوارزمي".split(),
    "hi": "मुंबई लक्ष्मी विक्रमादित्य".split(),
    "ko": "김철수 부산광역시".split(),
}

SPELLED = "zero one two three|third four five|fifth six seven eight nine|ninth ten eleven twel".split()
"""A source that spells a small number holds its digits."""


def plant(language: str, generator: random.Random) -> tuple[str, str]:
    """A kind ("number" or "name") and something of it that no carrier holds."""
    n = generator.randrange(1000, 100_000)
    if generator.random() < 0.5:
        return "number", generator.choice(NUMBERS[""] + NUMBERS.get(language, ()))(n)
    own = NAMES.get(language)
    return "name", generator.choice(own if own and generator.random() < 0.7 else NAMES[""])


def planted(text: str, what: str, generator: random.Random) -> tuple[str, int]:
    """The text with something put among its words, in scripts without spaces anywhere; and where it stands."""
    spaces = [match.end() for match in re.finditer(" ", text)]
    if len(spaces) < 4:
        at = generator.randrange(len(text) + 1)
        return text[:at] + what + text[at:], at
    at = generator.choice([0, *spaces])
    return f"{text[:at]}{what} {text[at:]}", at


def checker(plants: int, papers: int) -> Iterator[dict[str, Any]]:
    """Recall of the checker on plants by language and kind, and how often it objects to what is faithful."""
    generator = random.Random(0)
    found: dict[str, list[bool]] = {}
    extra = []
    languages = list(CARRIERS)
    contexts = [e.context for e in sample(load_examples("squad_dev"), plants)]
    for i in range(plants):
        language = languages[i // 2 % len(languages)] if i % 2 else "en"
        source = CARRIERS[language] if i % 2 else contexts[i]
        kind, what = plant(language, generator)
        while what in source:
            kind, what = plant(language, generator)
        text, at = planted(source, what, generator)
        claims = unsupported(text, [source])
        shown = [c for c in claims if c.start < at + len(what) and at < c.end]
        found.setdefault(f"planted {kind}s", []).append(bool(shown))
        found.setdefault("planted, all", []).append(bool(shown))
        extra.append(len(claims) > 0 and len(shown) == len(claims))
    for what, hits in found.items():
        yield _share("checker", "500 plants", what, "reported", hits)
    yield _share("checker", "500 plants", "all reports", "nothing but the plant reported", extra)
    clean = [not unsupported(text, [text]) for text in [*CARRIERS.values(), *contexts]]
    yield _share("checker", "sources themselves", "unchanged text", "no report", clean)
    rows = islice(read_rows(data_dir() / "eval" / "scitldr_test.jsonl.gz"), papers)
    targets = [(row["target"], " ".join(row["source"])) for row in rows]
    human = [not unsupported(t if isinstance(t, str) else t[0], [s]) for t, s in targets]
    yield _share("checker", "scitldr_test", "authors' summaries", "no report", human)


def inventions(limit: int) -> Iterator[dict[str, Any]]:
    """Each rewriter on real questions: what is in its output, not in the source, and not in its notes."""
    examples = sample(load_examples("squad_dev"), limit)
    model = Inventor()
    chats: dict[str, Compressor[CompressedText]] = {
        f"summarize, inventing model, {policy}": load("summarize", chat=model, inventions=policy)
        for policy in ("report", "repair", "extract")
    }
    methods = chats | {
        "chunk_rewrite, inventing model": load("chunk_rewrite", writer=load("summarize", chat=model)),
        "summarize model=draft": load("summarize", model="draft"),
        "summarize": load("summarize"),
        "chunk_rewrite": load("chunk_rewrite"),
        "semantic_drop": load("semantic_drop"),
    }
    for label, method in methods.items():
        model.plants.clear()
        found = method.compress_batch([Request(e.question, e.passages, Budget(keep=0.8)) for e in examples])
        passed = [bool(unreported(e, r)) for e, r in zip(examples, found, strict=True)]
        yield _share("inventions", "squad_dev", label, "outputs with an unreported invention", passed)
        noted = [any("not in the source" in note for note in r.stats.notes) for r in found]
        yield _share("inventions", "squad_dev", label, "outputs that name inventions", noted)
        silent = [is_silent(what, r) for r in found for what in model.plants if is_new(what, r)]
        if silent:
            yield _share("inventions", "squad_dev", label, "plants in the output that no note names", silent)


class Inventor:
    """A chat model that copies its passages, with a wrong number or name in every second sentence."""

    def __init__(self) -> None:
        self.plants: set[str] = set()

    def __call__(self, prompt: str) -> str:
        """The copy with its plants, which are remembered."""
        text = prompt.partition("Passages:\n")[2].rpartition("\n\nQuestion:")[0]
        generator = random.Random(text)
        sentences = re.split(r"(?<=[.!?]) ", text)
        for i in range(0, len(sentences), 2):
            what = plant("en", generator)[1]
            self.plants.add(what)
            sentences[i] = planted(sentences[i], what, generator)[0]
        return " ".join(sentences)


def is_new(what: str, result: CompressedText) -> bool:
    """Whether a plant stands in an output and in no passage of it."""
    whole = re.compile(rf"(?<!\w){re.escape(what)}(?!\w)")
    return bool(whole.search(result.text)) and not any(whole.search(p.text) for p in result.passages)


def is_silent(what: str, result: CompressedText) -> bool:
    """Whether no part of a plant is named in the notes."""
    notes = " ".join(result.stats.notes)
    return not any(part in notes for part in re.findall(r"\d+|[^\W\d_]{3,}", what))


def unreported(example: Example, result: CompressedText) -> list[str]:
    """Digits and capitalised words of an output that are in no passage and in no note, but for zeros before digits."""
    source = " ".join([example.context, *(p.title or "" for p in example.passages), *result.stats.notes])
    source += " " + " ".join(str(n) for n, word in enumerate(SPELLED) if re.search(word, source, re.IGNORECASE))
    words = [word.lstrip("0") or "0" for word in re.findall(r"\d+|(?<=[a-z,] )[A-Z][^\W\d_]+", result.text)]
    edges = [(r"[^\W\d_]", r"\d")[word.isdigit()] for word in words]
    return [w for w, edge in zip(words, edges, strict=True) if not re.search(rf"(?<!{edge})0*{w}(?!{edge})", source)]


def _share(part: str, data: str, method: str, metric: str, hits: list[bool]) -> dict[str, Any]:
    mean = bootstrap([float(hit) for hit in hits])
    return {
        "part": part, "data": data, "method": method, "metric": metric, "n": len(hits), "mean": mean.mean,
        "low": mean.low, "high": mean.high,
    }  # fmt: skip
