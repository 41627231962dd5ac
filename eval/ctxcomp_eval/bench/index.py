"""What each index preset keeps of an exact search, and what it costs, on passages of lm/wiki_pool and real questions.

``python -m ctxcomp_eval.bench.index [--passages N]`` writes ``eval/results/index.csv``. Passages are those that
questions of qa/span_train are about, then others; their vectors are made once and kept in ``runs/index``. Questions
whose passage falls into the first 20 % by hash are held out: their passages' pairs train nothing. eval/nq20 is only
reported on. Peers are FAISS's own factory strings, without what we add. Bytes in memory are those of a code, and
measured: the growth of the resident memory of a fresh process that loads the index and asks 500 questions.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctxcomp.encode import load_encoder
from ctxcomp.index import Index
from ctxcomp.index.codes import Codes, Floats, Rows, exact_nearest, faiss
from ctxcomp.index.recall import DEPTH, hits, interval
from ctxcomp.types import Passage
from ctxcomp_eval import data, provenance
from ctxcomp_eval.bench.common import RESULTS, percentiles, wiki_texts, write_csv

PACKAGES = ("ctxcomp", "faiss-cpu", "numpy", "torch", "onnxruntime")
CACHE = provenance.ROOT / "runs" / "index"
HELD_OUT_PERCENT = 20
TIMED = 200
CHUNK = 2000
PEERS = ("PQ96x4fs", "PQ48x8")
MEMORY = """
import ctypes, gc, os, sys
import numpy as np
from ctxcomp.index import Index
from ctxcomp.index.codes import faiss

def resident():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("Rss"))
    return [int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")]

questions = np.load(sys.argv[2])
faiss(), np.random.default_rng(0)
Index.load(sys.argv[3]).search(questions[0])  # a small one: what the libraries take once
before = resident()
index = Index.load(sys.argv[1])
loaded = resident()
for question in questions:
    index.nearest(question[None], 10)
asked = resident()
print(loaded[0] - before[0], asked[0] - before[0], asked[1] - before[1])
"""


@dataclass(frozen=True)
class Task:
    """Passages and questions as vectors; ``right`` is the row of a question's passage."""

    texts: list[str]
    passages: Floats
    train: Floats
    train_right: Rows
    test: Floats
    test_right: Rows
    nq: Floats


def load_task(count: int | None) -> Task:
    """The first ``count`` passages, all of them for None, with the questions that are about them."""
    pool = list(wiki_texts())
    known = set(pool)
    rows = [r for r in data.read_rows(data.data_dir() / "qa" / "span_train.jsonl.gz") if r["context"] in known]
    gold = dict.fromkeys(row["context"] for row in rows)
    texts = [*gold, *(text for text in pool if text not in gold)][:count]
    place = {text: i for i, text in enumerate(texts)}
    rows = [row for row in rows if row["context"] in place]
    right = np.array([place[row["context"]] for row in rows], dtype=np.int64)
    held = np.array([data.bucket(row["context"]) < HELD_OUT_PERCENT for row in rows])
    questions = embedded("questions", [row["question"] for row in rows])
    nq = embedded("nq20", [e.question for e in data.load("nq20")])
    return Task(texts, embedded("wiki_pool", texts), questions[~held], right[~held], questions[held], right[held], nq)


def embedded(name: str, texts: list[str]) -> Floats:
    """Vectors by MiniLM, made in parts that are kept."""
    parts = CACHE / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    made = []
    for at in range(0, len(texts), CHUNK):
        wanted = texts[at : at + CHUNK]
        file = parts / f"{name}-{at:06d}.npy"
        vectors = np.load(file) if file.is_file() else np.empty((0, 0), np.float32)
        if len(vectors) < len(wanted):
            vectors = load_encoder("minilm").embed(wanted)
            np.save(file, vectors)
        made.append(vectors[: len(wanted)])
    return np.concatenate(made)


def reciprocal_ranks(rows: Rows, right: Rows) -> Any:
    """Reciprocal rank of the right row among ``[n, DEPTH]``, 0 beyond."""
    places = rows == right[:, None]
    return np.where(places.any(axis=1), 1 / (1 + places.argmax(axis=1)), 0.0)


def build(task: Task, preset: str) -> Index:
    """An index of the task's passages, measured with questions that train it not."""
    passages = [Passage(text, id=str(i)) for i, text in enumerate(task.texts)]
    pairs = [(query, int(row)) for query, row in zip(task.train, task.train_right, strict=True)]
    return Index.build(
        passages, preset=preset, vectors=task.passages, vectors_of="minilm", queries=task.train[:400],
        pairs=pairs if preset == "tuned" else None,
    )  # fmt: skip


def measured(index: Index, folder: Path, task: Task) -> dict[str, Any]:
    """Bytes of memory, measured in a process of its own."""
    questions, small = folder / "questions.npy", folder / "small"
    np.save(questions, task.test[:500])
    first = [Passage(text) for text in task.texts[:200]]
    Index.build(first, preset="tiny", vectors=task.passages[:200]).save(small)
    place = folder / index.preset.name
    index.save(place)
    command = [sys.executable, "-c", MEMORY, str(place), str(questions), str(small)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    loaded, asked, mapped = (int(n) / len(index) for n in done.stdout.split())
    return {"rss_loaded": loaded, "rss_asked": asked, "mapped_pages": mapped}


def row(
    name: str, task: Task, nearest: Callable[[Floats, int], tuple[Floats, Rows]], seconds: float, size: int
) -> tuple[dict[str, Any], Any]:
    """Recall against exact search, the rank of the right passage, and the time of a search."""
    found = nearest(task.test, DEPTH)[1]
    recall = hits(found, exact_nearest(task.test, task.passages, DEPTH)[1])
    nq = hits(nearest(task.nq, DEPTH)[1], exact_nearest(task.nq, task.passages, DEPTH)[1])
    ranks = reciprocal_ranks(found, task.test_right)
    times = []
    for query in task.test[:TIMED]:
        start = time.perf_counter()
        nearest(query[None], DEPTH)
        times.append(time.perf_counter() - start)
    (low, high), (nq_low, nq_high) = interval(recall), interval(nq)
    mrr_low, mrr_high = interval(ranks)
    return {
        "index": name, "passages": len(task.texts), "questions": len(task.test), "bytes_per_vector": size,
        "recall10": float(recall.mean()), "low": low, "high": high,
        "nq20_recall10": float(nq.mean()), "nq20_low": nq_low, "nq20_high": nq_high,
        "mrr10": float(ranks.mean()), "mrr10_low": mrr_low, "mrr10_high": mrr_high,
        "build_s": seconds, **percentiles(times),
    }, ranks  # fmt: skip


def main() -> None:
    """Run everything and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, help="how many (default: all 58,076)")
    parser.add_argument("--presets", default="exact,small,tiny,streaming,tuned")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--out", type=Path, default=RESULTS / "index.csv")
    given = parser.parse_args()
    task = load_task(given.passages)
    rows: list[dict[str, Any]] = []
    ranks: dict[str, Any] = {}

    def report(name: str, cells: dict[str, Any], own: Any) -> None:
        blank = {"rss_loaded": "", "rss_asked": "", "mapped_pages": "", "shortlist": "", "note": ""}
        rows.append({**blank, **cells})
        rows[-1] = {key: rows[-1][key] for key in [*cells, *(k for k in blank if k not in cells)]}
        ranks[name] = own
        print(json.dumps(rows[-1]), flush=True)

    for name in filter(None, given.peers.split(",")):
        start = time.perf_counter()
        peer = faiss().index_factory(task.passages.shape[1], name, faiss().METRIC_INNER_PRODUCT)
        peer.train(task.passages[np.random.default_rng(0).permutation(len(task.passages))[:16_384]])
        peer.add(task.passages)
        report(name, *row(f"faiss {name}", task, peer.search, time.perf_counter() - start, peer.sa_code_size()))
    with tempfile.TemporaryDirectory() as folder:
        for name in given.presets.split(","):
            start = time.perf_counter()
            index = build(task, name)
            seconds = time.perf_counter() - start
            cells, own = row(name, task, index.nearest, seconds, index.bytes_per_vector)
            extra = {"shortlist": index.shortlist if index.codes else "", "note": index.note}
            report(name, {**cells, **measured(index, Path(folder), task), **extra}, own)
            if name == "tuned" and index.codes is not None:
                codes = index.codes

                def by_codes(
                    queries: Floats, k: int, tuned: Index = index, codes: Codes = codes
                ) -> tuple[Floats, Rows]:
                    return codes.best(tuned.tuned_queries(queries), k, 50)

                alone = "tuned, codes alone"
                report(alone, *row(alone, task, by_codes, seconds, index.bytes_per_vector))
    compare = [("tuned, codes alone", peer) for peer in PEERS] + [("tuned", "tiny")]
    for better, other in compare:
        if better in ranks and other in ranks:
            gain = ranks[better] - ranks[other]
            low, high = interval(gain)
            note = f"MRR@10 {gain.mean():+.4f} [{low:+.4f}, {high:+.4f}] over {other}"
            next(cells for cells in rows if cells["index"] == better)["note"] += f"; {note}"
            print(f"{better}: {note}")
    columns = list(dict.fromkeys(key for cells in rows for key in cells))
    write_csv(given.out, [{key: cells.get(key, "") for key in columns} for cells in rows], PACKAGES)


if __name__ == "__main__":
    main()
