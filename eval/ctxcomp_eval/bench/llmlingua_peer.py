"""Runs the real llmlingua in an environment of its own; it needs nothing of ctxcomp.

    python -m venv .peer
    .peer/bin/pip install torch==2.13.0 llmlingua==0.2.2 transformers==5.23.0
    .peer/bin/python eval/ctxcomp_eval/bench/llmlingua_peer.py MODEL CASES RESULTS [--seconds N]

CASES and RESULTS are JSON lines: ``{"method", "arguments"}`` in, ``{"result"}`` or ``{"error"}`` out, in order. With
``--seconds``, every case is repeated for that long and ``{"seconds": [...]}`` is added.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("cases", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    import torch
    from llmlingua import PromptCompressor

    torch.set_num_threads(options.threads)
    compressor = PromptCompressor(options.model, device_map="cpu", use_llmlingua2=True)
    with options.cases.open(encoding="utf-8") as cases, options.results.open("w", encoding="utf-8") as results:
        for line in cases:
            case = json.loads(line)
            answer = attempt(compressor, case)
            if options.seconds and "result" in answer:
                answer["seconds"] = timed(compressor, case, options.seconds)
            results.write(json.dumps(answer) + "\n")


def attempt(compressor: Any, case: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": getattr(compressor, case["method"])(**case["arguments"])}
    except Exception as error:  # noqa: BLE001 - whatever a foreign library raises is its answer
        return {"error": f"{type(error).__name__}: {error}"[:300]}


def timed(compressor: Any, case: dict[str, Any], seconds: float) -> list[float]:
    laps: list[float] = []
    while sum(laps) < seconds or len(laps) < 3:
        began = time.perf_counter()
        attempt(compressor, case)
        laps.append(time.perf_counter() - began)
    return laps


if __name__ == "__main__":
    main()
