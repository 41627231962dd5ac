"""Speed against the real llmlingua 0.2.2: same weights, same texts, equal results, both with the same threads.

    python -m ctxcomp_eval.bench.llmlingua_speed --peer .peer/bin/python

`llmlingua_peer.py` says how to make the peer's environment. The weights are MiniLM's with a fixed random head, in
float32 on the CPU. Beside each call stands the bare encoder on the same windows, which no implementation on this
encoder can undercut. Writes eval/results/llmlingua_speed.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctxcomp.compat.llmlingua import PromptCompressor
from ctxcomp_eval.bench import common, llmlingua_checkpoints

PEER_SCRIPT = Path(__file__).with_name("llmlingua_peer.py")
METHOD = "compress_prompt_llmlingua2"
PACKAGES = ("ctxcomp", "numpy", "onnxruntime", "torch", "transformers", "tokenizers", "tiktoken")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default=os.environ.get("CTXCOMP_PEER_PYTHON"), help="the peer environment's Python")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each measurement repeats")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "llmlingua_speed.csv")
    options = parser.parse_args()
    if not options.peer:
        parser.error("name the peer environment's Python with --peer or CTXCOMP_PEER_PYTHON")
    workloads = {"20 passages of 130 tokens": passages(20), "1 document of 10,000 tokens": [document(10_000)]}
    with tempfile.TemporaryDirectory() as folder:
        model = llmlingua_checkpoints.minilm_checkpoint(Path(folder))
        theirs = run_peer(model, list(workloads.values()), options, Path(folder))
        compressor = PromptCompressor(str(model), "cpu", use_llmlingua2=True, threads=options.threads)
        rows = []
        for (name, contexts), answer in zip(workloads.items(), theirs, strict=True):
            rows += measure(name, contexts, answer, compressor, options)
    common.write_csv(options.out, rows, PACKAGES)
    for row in rows:
        print(json.dumps(row))
    return int(not all(row["equal"] for row in rows))


def passages(n: int) -> list[str]:
    return [passage.text for passage in common.wiki_passages(n)]


def document(tokens: int) -> str:
    """Wikipedia passages joined to about ``tokens`` cl100k tokens."""
    return "\n\n".join(passage.text for passage in common.wiki_passages(round(tokens / 130)))


def run_peer(model: Path, workloads: list[list[str]], options: Any, folder: Path) -> list[dict[str, Any]]:
    """The peer's result and seconds for each workload."""
    calls, answers = folder / "calls.jsonl", folder / "answers.jsonl"
    lines = [{"method": METHOD, "arguments": {"context": contexts, "rate": 0.5}} for contexts in workloads]
    calls.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    arguments = [str(model), str(calls), str(answers), "--seconds", str(options.seconds)]
    subprocess.run([options.peer, str(PEER_SCRIPT), *arguments, "--threads", str(options.threads)], check=True)
    return [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]


def measure(
    name: str, contexts: list[str], answer: dict[str, Any], compressor: PromptCompressor, options: Any
) -> list[dict[str, Any]]:
    """Rows for the peer, for us, and for the bare encoder on our windows."""
    windows: list[Any] = []
    inside: list[float] = []
    model = compressor._engine.model
    plain = model.probabilities

    def watched(sequences: Sequence[Any]) -> list[Any]:
        windows[:] = sequences
        began = time.perf_counter()
        found = plain(sequences)
        inside.append(time.perf_counter() - began)
        return found

    call = getattr(compressor, METHOD)
    vars(model)["probabilities"] = watched
    result = call(contexts, rate=0.5)
    inside.clear()
    ours = laps(lambda: call(contexts, rate=0.5), options.seconds)
    del vars(model)["probabilities"]
    bare = laps(lambda: model._plain.token_logits(windows), options.seconds)
    tokens = result["origin_tokens"]
    share = float(np.median(np.array(inside) / np.array(ours)))
    equal = result == answer["result"]
    base = {"workload": name, "tokens_in": tokens, "threads": options.threads, "equal": equal}
    peer = float(np.median(answer["seconds"]))
    return [
        {**base, "what": what, **common.percentiles(seconds), **speeds(tokens, seconds), "encoder_share": found,
         "times_faster_p50": peer / float(np.median(seconds)), "repeats": len(seconds)}
        for what, seconds, found in (("llmlingua 0.2.2", answer["seconds"], ""), ("ctxcomp", ours, share),
                                     ("bare encoder", bare, ""))
    ]  # fmt: skip


def laps(work: Callable[[], Any], seconds: float) -> list[float]:
    """Seconds of each repetition, three at least."""
    found: list[float] = []
    while sum(found) < seconds or len(found) < 3:
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return found


def speeds(tokens: int, seconds: Sequence[float]) -> dict[str, float]:
    """Columns of cl100k tokens per second; p20 is the slow end."""
    return {f"tokens_per_s_p{q}": tokens / float(np.percentile(seconds, 100 - q)) for q in (20, 50, 80)}


if __name__ == "__main__":
    sys.exit(main())
