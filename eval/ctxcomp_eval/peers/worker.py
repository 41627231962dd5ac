"""Runs a peer in an environment of its own; it needs nothing of ctxcomp.

    PYTHON worker.py llmlingua MODEL THREADS
    PYTHON worker.py headroom

One JSON object of arguments a line comes in on standard input, and ``{"result", "seconds"}`` or ``{"error"}`` goes out
for each. The first line out is ``{"ready": version}``, or ``{"missing": why}`` where the package is not there.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any


def llmlingua(model: str, threads: str) -> tuple[str, Callable[..., Any]]:
    from llmlingua import PromptCompressor

    if int(threads):
        import torch

        torch.set_num_threads(int(threads))
    compressor = PromptCompressor(model, device_map="cpu", use_llmlingua2=True)
    return version("llmlingua"), compressor.compress_prompt_llmlingua2


def headroom() -> tuple[str, Callable[..., Any]]:
    crusher = importlib.import_module("headroom.transforms.text_crusher").TextCrusher()
    return version("headroom-ai"), lambda **arguments: crusher.compress(**arguments).compressed


MAKERS: dict[str, Callable[..., tuple[str, Callable[..., Any]]]] = {"llmlingua": llmlingua, "headroom": headroom}


def main() -> None:
    sys.path.pop(0)  # this folder: its modules must not hide those of the peer's environment
    # Whatever a foreign library prints goes to standard error, not between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")

    def say(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        found, call = MAKERS[sys.argv[1]](*sys.argv[2:])
    except ImportError as error:
        say(missing=str(error))
        return
    say(ready=found)
    for line in sys.stdin:
        began = time.perf_counter()
        try:
            result = call(**json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever a foreign library raises is its answer
            say(error=f"{type(error).__name__}: {error}"[:300])
            continue
        say(result=result, seconds=time.perf_counter() - began)


if __name__ == "__main__":
    main()
