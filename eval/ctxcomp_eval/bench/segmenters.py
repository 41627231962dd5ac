"""Sentence segmenters side by side: speed, exactness of offsets, boundary F1. Writes results/segmenters.csv.

Speed is measured on English Wikipedia prose, one call a passage, best of three. F1 is over the ends of sentences
inside a text (the last end is free), micro-averaged over the cases of `sentence_cases.jsonl` whose split is
"report"; the rules of `ctxcomp.sentences` were tuned on the split "tune". We wrote both, so two rows come from
elsewhere: "en-news" joins five news sentences a text (sentcomp_test), "en-papers" is abstracts (scitldr_test, whose
own splits are partly wrong: no segmenter can reach 1.0 there).
`offsets_exact` is the share of texts (cases, prose and hostile strings) whose sentences are found again, in order,
with no visible character outside of them.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import gzip
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CASES = HERE / "sentence_cases.jsonl"
RESULTS = HERE.parents[1] / "results" / "segmenters.csv"
COLUMNS = ("library", "version", "language", "mb_per_s", "offsets_exact", "boundary_f1", "python", "date")
GROUPS = ("en", "zh", "ja", "ar", "hi", "th")
HOSTILE = (
    "",
    " \n",
    "A\ud800. B.",
    "\ufeffA. B.",
    "A\u200b. \u200bB.",
    "A.\x00 B.",
    "👨‍👩‍👧. 🇩🇪! é.",
    "A.\r\n\r\nB.",
    "((((",
)

Spans = list[tuple[int, int]]
Splitter = Callable[[str], Spans]
Groups = dict[str, list[dict[str, Any]]]


def locate(text: str, sentences: Iterable[str]) -> Spans:
    """Offsets of sentences found from left to right; stops at the first that the library altered."""
    spans, position = [], 0
    for sentence in sentences:
        sentence = sentence.strip()
        start = text.find(sentence, position)
        if start < 0:
            break
        position = start + len(sentence)
        spans.append((start, position))
    return spans


def _sentencex() -> Splitter:
    import sentencex

    return lambda text: [(b["start_index"], b["end_index"]) for b in sentencex.get_sentence_boundaries("en", text)]


def _blingfire() -> Splitter:
    import blingfire

    return lambda text: list(blingfire.text_to_sentences_and_offsets(text)[1])


def _pysbd() -> Splitter:
    import pysbd

    splitter = pysbd.Segmenter(language="en", clean=False)
    return lambda text: locate(text, splitter.segment(text))


def _syntok() -> Splitter:
    from syntok import segmenter

    def split(text: str) -> Spans:
        paragraphs = segmenter.analyze(text)
        return [(s[0].offset, s[-1].offset + len(s[-1].value)) for p in paragraphs for s in p if s]

    return split


def _nltk() -> Splitter:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    tokenizer = PunktSentenceTokenizer()  # untrained: its models are a download
    return lambda text: list(tokenizer.span_tokenize(text))


def _fast_bunkai() -> Splitter:
    from fast_bunkai import FastBunkai

    splitter = FastBunkai()
    return lambda text: locate(text, splitter(text))


def _ctxcomp() -> Splitter:
    from ctxcomp.segment import segment

    def split(text: str) -> Spans:
        units = segment(text, "sentence")
        return list(zip(units.start.tolist(), units.end.tolist(), strict=True))

    return split


LIBRARIES: dict[str, Callable[[], Splitter]] = {
    "sentencex": _sentencex,
    "blingfire": _blingfire,
    "syntok": _syntok,
    "pysbd": _pysbd,
    "nltk": _nltk,
    "fast-bunkai": _fast_bunkai,
    "ctxcomp": _ctxcomp,
}


def exact(text: str, split: Splitter) -> bool:
    """Whether the spans of `split` are ordered, disjoint and cover every visible character."""
    try:
        spans = split(text)
    except (AssertionError, IndexError, TypeError, ValueError):
        return False
    position, rest = 0, []
    for start, end in spans:
        if start < position or end > len(text):
            return False
        rest.append(text[position:start])
        position = end
    rest.append(text[position:])
    return not "".join(rest).translate({0xFEFF: 32, 0x200B: 32}).strip()


def ends(text: str, spans: Sequence[tuple[int, int]]) -> set[int]:
    """Positions after the last visible character of each sentence, without the end of the text."""
    found = {start + len(text[start:end].rstrip()) for start, end in spans if text[start:end].strip()}
    return found - {len(text.rstrip())}


def f1(cases: Sequence[dict[str, Any]], split: Splitter, show: bool = False) -> float:
    """Micro-averaged F1 of sentence ends; 1.0 where there is nothing to find and nothing was found."""
    hits = found = wanted = 0
    for case in cases:
        gold = ends(case["text"], locate(case["text"], case["sentences"]))
        guess = ends(case["text"], split(case["text"]))
        hits, found, wanted = hits + len(gold & guess), found + len(guess), wanted + len(gold)
        if show and gold != guess:
            spans = split(case["text"])
            print(case["id"], [case["text"][a:b] for a, b in spans])
    return 2 * hits / (found + wanted) if found + wanted else 1.0


def speed(texts: Sequence[str], split: Splitter, seconds: float) -> float:
    """Million characters a second (in English, megabytes): best of three passes of at most `seconds`."""
    best, used = 0.0, 0.0
    for _ in range(3):
        size, begin = 0, time.perf_counter()
        for text in texts:
            split(text)
            size += len(text)
            used = time.perf_counter() - begin
            if used > seconds:
                break
        best = max(best, size / used / 1e6)
    return best


def load_cases(split: str) -> list[dict[str, Any]]:
    with CASES.open(encoding="utf-8") as lines:
        return [case for case in map(json.loads, lines) if case["split"] == split]


def read_rows(path: Path, rows: int) -> list[dict[str, Any]]:
    """The first rows of a gzipped JSON lines file; none where it is absent."""
    if not path.exists():
        return []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for _, line in zip(range(rows), lines, strict=False)]


def load_prose(data: Path, rows: int) -> list[str]:
    """English prose for the speed; the English cases where the data is absent."""
    texts = [row["text"] for row in read_rows(data / "lm" / "wiki_pool.jsonl.gz", rows)]
    return texts or [" ".join(case["text"] for case in load_cases("report") if case["language"] == "en")]


def natural_cases(data: Path, rows: int = 600) -> Groups:
    """Cases that we did not write, by the name of their row."""
    news = [" ".join(row["tokens"]) for row in read_rows(data / "eval" / "sentcomp_test.jsonl.gz", rows)]
    papers = [row["source"] for row in read_rows(data / "eval" / "scitldr_test.jsonl.gz", rows)]
    groups = {"en-news": [news[i : i + 5] for i in range(0, len(news), 5)], "en-papers": papers}
    cases: Groups = {}
    for name, texts in groups.items():
        for sentences in texts:
            tidy = [" ".join(sentence.split()) for sentence in sentences if sentence.strip()]
            cases.setdefault(name, []).append({"text": " ".join(tidy), "sentences": tidy})
    return cases


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "source"


def measure(
    name: str, prose: Sequence[str], natural: dict[str, list[dict[str, Any]]], seconds: float
) -> list[dict[str, Any]]:
    split = LIBRARIES[name]()
    cases = load_cases("report")
    texts = [case["text"] for case in [*cases, *load_cases("tune")]] + list(HOSTILE) + list(prose[:200])
    common = {
        "library": name,
        "version": version(name),
        "offsets_exact": f"{sum(exact(text, split) for text in texts) / len(texts):.3f}",
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    groups = {"all": cases} | {group: [c for c in cases if c["language"] == group] for group in GROUPS}
    groups["other"] = [c for c in cases if c["language"] not in GROUPS]
    rows = []
    for group, chosen in (groups | natural).items():
        rate = f"{speed(prose, split, seconds):.2f}" if group == "en" else ""
        rows.append({**common, "language": group, "mb_per_s": rate, "boundary_f1": f"{f1(chosen, split):.3f}"})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE.parents[3] / "shared" / "data")
    parser.add_argument("--rows", type=int, default=5000, help="passages to read for the speed")
    parser.add_argument("--seconds", type=float, default=2.0, help="time limit of one pass")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--show", help="print the cases of split 'tune' that this library gets wrong, and stop")
    args = parser.parse_args(argv)
    if args.show:
        print(f"{f1(load_cases('tune'), LIBRARIES[args.show](), show=True):.3f}")
        return
    prose, natural = load_prose(args.data, args.rows), natural_cases(args.data)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for name in LIBRARIES:
            rows = measure(name, prose, natural, args.seconds)
            writer.writerows(rows)
            print(*("  ".join(str(row[c]) for c in COLUMNS[:6]) for row in rows), sep="\n", flush=True)


if __name__ == "__main__":
    main()
