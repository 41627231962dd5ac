"""Methods that drop words or write text against chance and truncation. Writes results/rewriters.csv.

    python -m ctxcomp_eval.bench.rewriters

Parts: "retention" is answer retention at equal keep with paired differences; "rouge" the ROUGE F1 of summaries of
scitldr_test against the authors' own; "summaries" the answer retention of query-aware summaries; "latency" one request
of about 1,000 tokens; "inventions" and "checker" are in `inventions`. Choices were made on span_dev and
scitldr_train. Intervals are bootstrap, 95 %, over questions or papers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer

from ctxcomp import Budget, CompressedText, Passage, Request, load
from ctxcomp.compressor import Compressor
from ctxcomp_eval.bench.common import RESULTS, percentiles, wiki_passages, write_csv
from ctxcomp_eval.bench.inventions import checker, inventions
from ctxcomp_eval.data import Example, data_dir, read_rows, sample
from ctxcomp_eval.data import load as load_examples
from ctxcomp_eval.retention import bootstrap, paired_difference, retained

Row = dict[str, Any]
Text = Compressor[CompressedText]
COLUMNS = (
    "part", "data", "method", "keep", "metric", "n", "mean", "low", "high", "versus", "difference", "difference_low",
    "difference_high", "keep_spent", "p20_s", "p50_s", "p80_s",
)  # fmt: skip
ROUGES = ("rouge1", "rouge2", "rougeL")
TLDR_TOKENS = 40
"""The budget of a summary of a paper's abstract; the authors' take 28 on average."""


def row(**values: Any) -> Row:
    """One line of the file."""
    return {column: values.get(column, "") for column in COLUMNS}


def retention(sizes: dict[str, int]) -> Iterator[Row]:
    """`semantic_drop` at keep .8 and `chunk_rewrite` at .5 against what they must beat."""
    for name, limit in sizes.items():
        for method, keep, unit in (("semantic_drop", 0.8, "word"), ("chunk_rewrite", 0.5, "sentence")):
            examples = sample(load_examples(name), limit if method == "chunk_rewrite" or name != "nq20" else limit // 2)
            others = {f"random {unit}s": load("random", unit=unit), "truncate": load("truncate")}
            yield from compared(f"{name}", examples, keep, {method: load(method), **others}, "retention")


def compared(name: str, examples: Sequence[Example], keep: float, methods: dict[str, Text], part: str) -> Iterator[Row]:
    """A row for each method; the first one's has a line against each of the others."""
    kept, spent = {}, {}
    counted = [example for example in examples if retained(example.answers, example.context)]
    for label, method in methods.items():
        requests = [Request(e.question, e.passages, Budget(keep=keep)) for e in counted]
        results = [r for i in range(0, len(requests), 16) for r in method.compress_batch(requests[i : i + 16])]
        kept[label] = np.array([retained(e.answers, r.text) for e, r in zip(counted, results, strict=True)], float)
        spent[label] = float(np.mean([r.stats.keep for r in results]))
    first = next(iter(methods))
    for label, values in kept.items():
        mean = bootstrap(values)
        against: Row = {}
        if label != first:
            d = paired_difference(kept[first], values)
            against = {"versus": first, "difference": d.mean, "difference_low": d.low, "difference_high": d.high}
        yield row(
            part=part, data=name, method=label, keep=keep, metric="retention", n=len(values), mean=mean.mean,
            low=mean.low, high=mean.high, keep_spent=spent[label], **against,
        )  # fmt: skip


def summaries(limit: int) -> Iterator[Row]:
    """Query-aware summaries of one paragraph at keep .3: extraction, a draft by rules, the lead."""
    made = {
        "summarize": load("summarize"),
        "summarize model=draft": load("summarize", model="draft"),
        "lead": load("truncate", unit="sentence"),
    }
    yield from compared("squad_dev", sample(load_examples("squad_dev"), limit), 0.3, made, "summaries")


def writers() -> dict[str, Text]:
    """What summarises papers without a question."""
    near = load("embedding_select", passage_weight=0.0)
    return {
        "lead": load("truncate", unit="sentence"),
        "extraction": load("summarize"),
        "extraction by embeddings": load("summarize", extractor=near),
        "draft": load("summarize", model="draft"),
        "draft by embeddings": load("summarize", model="draft", extractor=near),
    }


def rouge(limit: int, file: str = "eval/scitldr_test.jsonl.gz") -> Iterator[Row]:
    """ROUGE F1 against the best of the reference summaries, and differences to the lead."""
    papers = list(islice(read_rows(data_dir() / file), limit))
    scorer = RougeScorer(ROUGES, use_stemmer=True)
    requests = [Request("", (Passage(" ".join(p["source"])),), Budget(tokens=TLDR_TOKENS)) for p in papers]
    scores: dict[str, dict[str, NDArray[np.float64]]] = {}
    for label, method in writers().items():
        results = method.compress_batch(requests)
        found = [
            [max(scorer.score(target, result.text)[kind].fmeasure for target in _targets(paper)) for kind in ROUGES]
            for paper, result in zip(papers, results, strict=True)
        ]
        scores[label] = dict(zip(ROUGES, np.array(found).T, strict=True))
    for label, by_kind in scores.items():
        for kind, values in by_kind.items():
            mean, d = bootstrap(values), paired_difference(values, scores["lead"][kind])
            yield row(
                part="rouge", data=Path(file).name.split(".")[0], method=label, metric=kind, n=len(values),
                mean=mean.mean, low=mean.low, high=mean.high, versus="minus lead", difference=d.mean,
                difference_low=d.low, difference_high=d.high,
            )  # fmt: skip


def _targets(paper: dict[str, Any]) -> list[str]:
    target = paper["target"]
    return [target] if isinstance(target, str) else list(target)


def latency(rounds: int) -> Iterator[Row]:
    """Seconds of one request of about 1,000 tokens in 8 passages, after a warm-up."""
    passages = wiki_passages(8 * (rounds + 1), tokens=125)
    cases = {"semantic_drop": 0.8, "chunk_rewrite": 0.5, "summarize": 0.3, "demonstrations": 0.5}
    for method, keep in cases.items():
        compressor, seconds = load(method), []
        for i in range(rounds + 1):
            given = passages[8 * i : 8 * i + 8]
            began = time.perf_counter()
            result = compressor.compress("Who founded the company, and when?", given, Budget(keep=keep))
            seconds.append((time.perf_counter() - began) * 1000 / result.stats.tokens_in)
        spread = percentiles(seconds[1:])
        yield row(part="latency", data="1,000 tokens", method=method, keep=keep, n=rounds, **spread)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts and write the file; parts that are not run keep their rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", default="retention,summaries,rouge,latency,inventions,checker")
    parser.add_argument("--squad", type=int, default=300)
    parser.add_argument("--nq20", type=int, default=150, help="questions; half of them for semantic_drop")
    parser.add_argument("--papers", type=int, default=618)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "rewriters.csv")
    given = parser.parse_args(arguments)
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "retention": lambda: retention({"squad_dev": given.squad, "nq20": given.nq20}),
        "summaries": lambda: summaries(given.squad),
        "rouge": lambda: rouge(given.papers),
        "latency": lambda: latency(given.rounds),
        "inventions": lambda: (row(**found) for found in inventions(given.squad // 2)),
        "checker": lambda: (row(**found) for found in checker(500, given.papers)),
    }
    rows: list[Row] = []
    for part in given.parts.split(","):
        for one in parts[part]():
            rows.append(one)
            print(*(f"{v:.4g}" if isinstance(v, float) else v for v in one.values() if v != ""), sep=" | ", flush=True)
        write_csv(given.out, rows)


if __name__ == "__main__":
    main()
