"""Record what the real llmlingua 0.2.2 answers, for tests that run without it.

    python -m ctxcomp_eval.bench.llmlingua_goldens --peer .peer/bin/python

`llmlingua_peer.py` says how to make the peer's environment. Writes tests/compat/goldens.jsonl: the peer's signatures,
then one line per call. The calls hold no text of the shared data.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ctxcomp_eval import provenance
from ctxcomp_eval.bench import llmlingua_checkpoints
from ctxcomp_eval.bench.llmlingua_cases import SNIPPETS, cases

MAKERS = {
    "wordpiece": llmlingua_checkpoints.wordpiece_checkpoint,
    "sentencepiece": llmlingua_checkpoints.sentencepiece_checkpoint,
}
PROSE = (
    "The council met on 12 May 1871 to discuss the new bridge. Nobody had asked the ferrymen, who were not amused. "
    "After two hours the mayor, tired of shouting, put the question: should the town pay, or the railway? ",
    "Water boils at 100 degrees at sea level, but on a mountain of 3,000 metres at about 90. That is why beans take "
    "longer there; a pressure cooker helps. Salt, against a common belief, changes almost nothing. ",
    "Dear all, please find the minutes below. Anna will send the figures, Tom won't. We agreed (again) that the "
    "report is due on Friday, not Monday. Any questions? Ask Ruth!\n",
)
EXTRA: tuple[dict[str, Any], ...] = (
    {"context": [PROSE[0] + "[PAD] and <pad> stand here. " + PROSE[1]], "rate": 0.4},
    {"context": ["before [NEW3] after, " + PROSE[2]], "rate": 0.6, "return_word_label": True},
    {"context": ["".join(PROSE) * 9], "rate": 0.33, "force_tokens": ["\n", "?"], "return_word_label": True},
    {"context": ["".join(SNIPPETS) * 3, *PROSE], "rate": 0.5, "drop_consecutive": True, "force_tokens": [".", "the"]},
    {"context": [*PROSE, *SNIPPETS[:4]], "target_token": 90, "force_reserve_digit": True, "force_context_ids": [0]},
    {"context": [*PROSE], "rate": 0.7, "token_to_word": "first", "target_context": 2, "return_word_label": True},
)
SIGNATURES = """
import inspect, json
from llmlingua import PromptCompressor as C
names = ["__init__", "compress_prompt", "compress_prompt_llmlingua2", "structured_compress_prompt", "compress_json"]
print(json.dumps({name: [[p.name, None if p.default is p.empty else p.default, p.default is p.empty]
      for p in list(inspect.signature(getattr(C, name)).parameters.values())[1:]] for name in names}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default=os.environ.get("CTXCOMP_PEER_PYTHON"), help="the peer environment's Python")
    parser.add_argument("--cases", type=int, default=16, help="random calls for each checkpoint")
    parser.add_argument("--seed", type=int, default=23)
    options = parser.parse_args()
    if not options.peer:
        parser.error("name the peer environment's Python with --peer or CTXCOMP_PEER_PYTHON")
    printed = subprocess.run([options.peer, "-c", SIGNATURES], check=True, capture_output=True, text=True).stdout
    lines: list[dict[str, Any]] = [{"signatures": json.loads(printed)}]
    with tempfile.TemporaryDirectory() as folder:
        for kind, make in MAKERS.items():
            calls = [{"method": "compress_prompt_llmlingua2", "arguments": arguments} for arguments in EXTRA]
            calls += cases(options.cases, options.seed, PROSE)
            answers = record(options.peer, make(Path(folder)), calls, Path(folder))
            lines += [{"kind": kind, **call, **answer} for call, answer in zip(calls, answers, strict=True)]
    path = provenance.ROOT / "tests" / "compat" / "goldens.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return 0


def record(peer: str, model: Path, calls: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The peer's answer to each call."""
    asked, answered = folder / "calls.jsonl", folder / "answers.jsonl"
    asked.write_text("".join(json.dumps(call) + "\n" for call in calls), encoding="utf-8")
    script = Path(__file__).with_name("llmlingua_peer.py")
    subprocess.run([peer, str(script), str(model), str(asked), str(answered)], check=True)
    return [json.loads(line) for line in answered.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
