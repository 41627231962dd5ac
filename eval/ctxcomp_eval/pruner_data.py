"""Training groups for `sentence_pruner`: a question, one passage with its evidence, and hard negatives.

It takes a minute, and writes train.jsonl and dev.jsonl::

    python -m ctxcomp_eval.pruner_data --out runs/pruner
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from tqdm import tqdm

from ctxcomp.segment import segment
from ctxcomp.text.bm25 import words
from ctxcomp_eval.data import data_dir, in_dev, read_rows
from ctxcomp_eval.pruner_pool import Pool

Spans = tuple[tuple[int, int], ...]
SHARES = {
    "qed_train": 1.0, "squad_train_a": 1.0, "squad_train_b": 1.0, "squadshifts_new_wiki": 0.7,
    "squadshifts_reddit": 0.12, "squadshifts_amazon_reviews": 0.12,
}  # fmt: skip
"""How much of each source is used: Wikipedia and encyclopaedic questions most."""
NEGATIVES = {"train": 10, "dev": 19}
CHUNK_WORDS = 100
_DETOKENISE = (
    (re.compile(r"`` ?| ?''"), '"'),
    (re.compile(r" ([,.;:?!%)\]])"), r"\1"),
    (re.compile(r"([(\[$]) "), r"\1"),
    (re.compile(r" ('s|'re|'ve|'ll|'d|'m|n't)\b"), r"\1"),
    (re.compile(r" -- "), " – "),
    (re.compile(r" - (?=\w)"), "-"),
)


@dataclass(frozen=True, slots=True)
class Group:
    """One question with passages of which some hold evidence.

    Parameters
    ----------
    passages: texts, those with evidence first.
    evidence: per passage the character spans that answer; empty for negatives.
    ignored: per passage spans that hold the answer's words without being its labelled place.
    scores: per passage the retriever's score.
    """

    id: str
    source: str
    question: str
    answers: tuple[str, ...]
    passages: tuple[str, ...]
    evidence: tuple[Spans, ...]
    ignored: tuple[Spans, ...]
    scores: tuple[float, ...]

    @classmethod
    def read(cls, row: dict[str, Any]) -> Group:
        """From the JSON that ``asdict`` gave."""
        evidence, ignored = (
            tuple(tuple((a, b) for a, b in one) for one in row[key]) for key in ("evidence", "ignored")
        )
        answers, passages, scores = (tuple(row[key]) for key in ("answers", "passages", "scores"))
        return cls(row["id"], row["source"], row["question"], answers, passages, evidence, ignored, scores)


def detokenise(text: str) -> str:
    """Text as it is written, from text with spaces between its tokens: the sets mix both, and negatives would show."""
    for pattern, replacement in _DETOKENISE:
        text = pattern.sub(replacement, text)
    return text


def crop(text: str, spans: Sequence[tuple[int, int]], rng: random.Random) -> tuple[str, Spans]:
    """A window of about 100 words that holds the first span, as retrievers cut them; the spans inside it."""
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    if len(starts) <= CHUNK_WORDS:
        return text, tuple(spans)
    low, high = 0, len(starts) - CHUNK_WORDS
    if spans:
        first, last = np.searchsorted(starts, [spans[0][0], spans[0][1] - 1], side="right") - 1
        low, high = max(0, int(last) - CHUNK_WORDS + 1), min(int(first), high)
    begin = rng.randint(min(low, high), max(low, high))
    a = starts[begin]
    b = starts[begin + CHUNK_WORDS] if begin + CHUNK_WORDS < len(starts) else len(text)
    return text[a:b].rstrip(), tuple((s - a, e - a) for s, e in spans if s >= a and e <= b)


def occurrences(text: str, answers: Iterable[str]) -> Spans:
    """Where any of the answers stands in a text, as whole words, whatever its case."""
    pattern = "|".join(re.escape(answer) for answer in sorted(set(answers), key=len, reverse=True) if answer)
    return tuple(m.span() for m in re.finditer(rf"(?<!\w)(?:{pattern})(?!\w)", text, re.IGNORECASE)) if pattern else ()


def _contexts(folder: Path) -> tuple[list[str], list[str]]:
    """Passages for training and for dev: a dev question may meet training passages, never the reverse."""
    train: list[str] = []
    dev: list[str] = []
    for row in read_rows(folder / "qa" / "span_train.jsonl.gz"):
        (dev if in_dev("span_dev", row) else train).append(detokenise(row["context"]))
    known = {text[:60] for text in dev}
    pool = (detokenise(row["text"]) for row in read_rows(folder / "lm" / "wiki_pool.jsonl.gz"))
    train += [text for text in pool if text[:60] not in known and len(text) > 150]
    return train, dev


def span_groups(
    folder: Path, part: str, rng: random.Random, vectors: Path | None = None, twice: Sequence[str] = ()
) -> Iterator[Group]:
    """Groups of the extractive QA sets. In training each question may be cased and punctuated as in another set."""
    train, dev = _contexts(folder)
    pool = Pool(train + (dev if part == "dev" else []), vectors if part == "train" else None)
    rows = [
        row for row in read_rows(folder / "qa" / "span_train.jsonl.gz") if in_dev("span_dev", row) == (part == "dev")
    ]
    rng.shuffle(rows)
    for row in tqdm(rows, desc=f"{part}: negatives"):
        if rng.random() > SHARES[row["source"]]:
            continue
        context = detokenise(row["context"])
        answers = tuple(dict.fromkeys(detokenise(answer["text"]) for answer in row["answers"]))
        found = occurrences(context, answers)
        shift = len(context) / max(len(row["context"]), 1)
        wanted = [answer["start"] * shift for answer in row["answers"]]
        labelled = sorted({min(found, key=lambda span: abs(span[0] - start)) for start in wanted}) if found else []
        if not labelled:
            continue
        negatives = pool.negatives(row["question"], answers, context, NEGATIVES[part])
        for _ in range(2 if row["source"] in twice and part == "train" else 1):
            yield _group(row, context, answers, labelled, negatives, pool, part, rng)


def _group(
    row: dict[str, Any], context: str, answers: tuple[str, ...], labelled: list[tuple[int, int]],
    negatives: list[tuple[str, float]], pool: Pool, part: str, rng: random.Random,
) -> Group:  # fmt: skip
    question = row["question"].strip()
    if part == "train" and rng.random() < 0.3:
        question = question.rstrip("?").lower() if question.endswith("?") else question.capitalize() + "?"
    cut = part == "dev" or rng.random() < 0.6
    gold, evidence = crop(context, labelled, rng) if cut else (context, tuple(labelled))
    others = [crop(text, (), rng)[0] if cut or rng.random() < 0.6 else text for text, _ in negatives]
    again = tuple(span for span in occurrences(gold, answers) if span not in evidence)
    n = len(others)
    return Group(
        row["id"], row["source"], question, answers, (gold, *others), (evidence, *[()] * n), (again, *[()] * n),
        (pool.score(row["question"], context), *(score for _, score in negatives)),
    )  # fmt: skip


def hotpot_groups(folder: Path, part: str) -> Iterator[Group]:
    """HotpotQA: two passages with labelled sentences each, eight distractors."""
    for row in read_rows(folder / "qa" / "hotpot_train.jsonl.gz"):
        if in_dev("hotpot_dev", row) == (part == "dev"):
            passages = sorted(row["passages"], key=lambda p: not p["support"])
            evidence = tuple(tuple((a, b) for a, b in p["support"]) for p in passages)
            n = len(passages)
            yield Group(
                row["id"], "hotpot", row["question"], tuple(row["answers"]), tuple(p["text"] for p in passages),
                evidence, ((),) * n, (0.0,) * n,
            )  # fmt: skip


def hop_groups(folder: Path, rng: random.Random) -> Iterator[Group]:
    """HotpotQA's training questions as they are, and as the second look asks: with a sentence behind the question.

    Behind a sentence of the evidence the other passage is wanted; behind one that leads nowhere, both are.
    """
    for group in hotpot_groups(folder, "train"):
        yield group
        held = [i for i, spans in enumerate(group.evidence) if spans]
        astray = [i for i in range(len(group.passages)) if i not in held]
        for i in (*held, *rng.sample(astray, min(1, len(astray)))):
            text = group.passages[i]
            units = segment(text, "sentence")
            spans = group.evidence[i] or list(zip(units.start.tolist(), units.end.tolist(), strict=True))
            begin, end = rng.choice(spans)
            rest = [k for k in range(len(group.passages)) if k != i]
            yield replace(
                group, id=f"{group.id}-{i}", source="hop", question=f"{group.question} {text[begin:end].strip()}",
                passages=tuple(group.passages[k] for k in rest), evidence=tuple(group.evidence[k] for k in rest),
                ignored=((),) * len(rest), scores=(0.0,) * len(rest),
            )  # fmt: skip


def _chunked(id: str, source: str, question: str, text: str, spans: Sequence[tuple[int, int]]) -> Group | None:
    """A long text in chunks of about 120 words at line or sentence ends, those with evidence first."""
    if not spans:
        return None
    cuts = [0]
    for match in re.finditer(r"\n+|(?<=[.;])\s+", text):
        if text.count(" ", cuts[-1], match.end()) >= 120:
            cuts.append(match.end())
    pieces = []
    for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True):
        inside = tuple((max(s, a) - a, min(e, b) - a) for s, e in spans if s < b and e > a)
        pieces.append((text[a:b].rstrip(), inside))
    pieces = [(piece, inside) for piece, inside in pieces if len(piece) > 40]
    positive, negative = [p for p in pieces if p[1]], [p for p in pieces if not p[1]]
    if not positive or not negative:
        return None
    index = bm25s.BM25()
    index.index([words(piece) or ["_"] for piece, _ in negative], show_progress=False)
    order = np.argsort(-index.get_scores(words(question) or ["_"]), kind="stable")[: NEGATIVES["train"]]
    chosen = positive[:3] + [negative[i] for i in order.tolist()]
    n = len(chosen)
    return Group(
        id, source, question, (), tuple(p for p, _ in chosen), tuple(s for _, s in chosen), ((),) * n, (0.0,) * n
    )


def meeting_groups(folder: Path) -> Iterator[Group]:
    """QMSum: the turns that a query is about."""
    for row in read_rows(folder / "long" / "qmsum_train.jsonl.gz"):
        starts = np.cumsum([0, *(len(turn) + 1 for turn in row["turns"])])
        for i, query in enumerate(row["queries"]):
            spans = [(int(starts[a]), int(starts[b + 1]) - 1) for a, b in query["relevant"] if b < len(row["turns"])]
            if spans and (
                group := _chunked(f"{row['id']}-{i}", "qmsum", query["question"], "\n".join(row["turns"]), spans)
            ):
                yield group


def contract_groups(folder: Path) -> Iterator[Group]:
    """CUAD: the clauses of a category."""
    for row in read_rows(folder / "long" / "cuad_train.jsonl.gz"):
        for i, qa in enumerate(row["qa"]):
            spans = sorted({(a, b) for a, b in qa["spans"]})
            if group := _chunked(f"{row['id']}-{i}", "cuad", qa["question"], row["text"], spans):
                yield group


def build(part: str, folder: Path, seed: int, vectors: Path | None = None, twice: Sequence[str] = ()) -> list[Group]:
    """All groups of a part, shuffled; dev negatives are BM25's alone, as the retriever's score is."""
    rng = random.Random(seed)
    groups = [*span_groups(folder, part, rng, vectors, twice), *hotpot_groups(folder, part)]
    if part == "train":
        contracts, meetings = list(contract_groups(folder)), list(meeting_groups(folder))
        groups += rng.sample(contracts, min(1000, len(contracts))) + rng.sample(meetings, min(800, len(meetings)))
    rng.shuffle(groups)
    return groups


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/pruner"))
    parser.add_argument("--vectors", type=Path, help="file of the pool's embeddings: half of the negatives by these")
    parser.add_argument("--twice", nargs="*", default=[], choices=SHARES, help="sources whose questions count double")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for part in ("dev", "train"):
        groups = build(part, data_dir(), options.seed, options.vectors, options.twice)
        with (options.out / f"{part}.jsonl").open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(asdict(group)) + "\n" for group in groups)
        print(part, len(groups))


if __name__ == "__main__":
    main()
