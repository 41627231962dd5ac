"""Parity with the real llmlingua 0.2.2: random calls of both, and the dictionaries must be equal.

    python -m ctxcomp_eval.bench.llmlingua_parity --peer .peer/bin/python [--cases 2500]

Calls on which llmlingua crashes must raise an InputError here. "refused" counts those where llmlingua returns nothing
for a whole input without a word and ctxcomp says so instead. `llmlingua_peer.py` says how to make the peer's
environment. Writes eval/results/llmlingua_parity.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ctxcomp.compat.llmlingua import PromptCompressor
from ctxcomp.errors import InputError
from ctxcomp_eval.bench import common, llmlingua_checkpoints
from ctxcomp_eval.bench.llmlingua_cases import cases

PEER_SCRIPT = Path(__file__).with_name("llmlingua_peer.py")
MAKERS = {
    "WordPiece, 2 layers": llmlingua_checkpoints.wordpiece_checkpoint,
    "SentencePiece, 2 layers": llmlingua_checkpoints.sentencepiece_checkpoint,
    "WordPiece, MiniLM": llmlingua_checkpoints.minilm_checkpoint,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default=os.environ.get("CTXCOMP_PEER_PYTHON"), help="the peer environment's Python")
    parser.add_argument("--cases", type=int, default=2500, help="for each tiny checkpoint; a tenth for MiniLM")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runtime", choices=("onnx", "torch"), default="onnx")
    parser.add_argument("--kinds", nargs="*", default=list(MAKERS))
    parser.add_argument("--out", type=Path, default=common.RESULTS / "llmlingua_parity.csv")
    options = parser.parse_args()
    if not options.peer:
        parser.error("name the peer environment's Python with --peer or CTXCOMP_PEER_PYTHON")
    prose = list(islice(common.wiki_texts(), 400))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.kinds:
            n = options.cases // 10 if kind.endswith("MiniLM") else options.cases
            drawn = list(cases(n, options.seed, prose))
            model = MAKERS[kind](Path(folder))
            counts = compare(kind, model, drawn, options.peer, options.runtime, Path(folder))
            rows.append({"checkpoint": kind, "runtime": options.runtime, "seed": options.seed, "cases": n, **counts})
    common.write_csv(options.out, rows, ("ctxcomp", "numpy", "onnxruntime", "torch", "transformers", "tokenizers"))
    print(*rows, sep="\n")
    return int(any(row["different"] or row["only_one_failed"] for row in rows))


def compare(
    kind: str, model: Path, drawn: list[dict[str, Any]], peer: str, runtime: str, folder: Path
) -> dict[str, int]:
    """How many calls gave equal dictionaries, and how the others differed."""
    calls, answers = folder / "cases.jsonl", folder / "answers.jsonl"
    calls.write_text("".join(json.dumps(case) + "\n" for case in drawn), encoding="utf-8")
    running = subprocess.Popen([peer, str(PEER_SCRIPT), str(model), str(calls), str(answers), "--threads", "1"])
    ours = list(tqdm(_ours(model, drawn, runtime), total=len(drawn), desc=kind, disable=not sys.stderr.isatty()))
    if running.wait():
        raise SystemExit(f"the peer failed with status {running.returncode}")
    theirs = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    counts: Counter[str] = Counter(equal=0, both_failed=0, refused=0, only_one_failed=0, different=0)
    for case, mine, other in zip(drawn, ours, theirs, strict=True):
        verdict = _verdict(mine, other)
        counts[verdict] += 1
        if verdict in ("different", "only_one_failed"):
            print(json.dumps({"case": case, "ctxcomp": mine, "llmlingua": other}, ensure_ascii=False), file=sys.stderr)
    return dict(counts)


def _ours(model: Path, drawn: list[dict[str, Any]], runtime: Any) -> Iterator[dict[str, Any]]:
    compressor = PromptCompressor(str(model), "cpu", use_llmlingua2=True, runtime=runtime)
    for case in drawn:
        try:
            yield {"result": getattr(compressor, case["method"])(**case["arguments"])}
        except InputError as error:
            yield {"error": str(error)}


def _verdict(mine: dict[str, Any], other: dict[str, Any]) -> str:
    if "error" in mine and "error" in other:
        return "both_failed"
    if "would lose text" in mine.get("error", "") and other["result"]["origin_tokens"] == 0:
        return "refused"  # the peer silently returns "" for the whole input
    if "error" in mine or "error" in other:
        return "only_one_failed"
    return "equal" if mine["result"] == other["result"] else "different"


if __name__ == "__main__":
    sys.exit(main())
