"""Every benchmark, one after the other: ``python -m ctxcomp_eval.bench`` (`make bench`); takes hours."""

from __future__ import annotations

import os
import subprocess
import sys

from ctxcomp_eval.bench.common import RESULTS

EVALUATION = ("--data", "nq20", "--methods", "sentence_pruner,embedding_select,token_pruner", "--out", str(RESULTS))
BENCHMARKS: tuple[tuple[str, ...], ...] = (
    ("segmenters",),
    ("encoders",),
    ("fit_speed",),
    ("call_share",),
    ("early_exit",),
    ("memory",),
    ("budget_fuzz",),
    ("gateway_overhead",),
    ("service_load",),
    ("service_fuzz",),
    ("sheets",),
    ("sheets_fuzz",),
    ("rewriters",),
    ("index",),
    ("visual",),
)
WITH_PEER = ("llmlingua_speed", "llmlingua_parity")
"""These need the peer's environment, named by CTXCOMP_PEER_PYTHON."""


def main() -> int:
    peer = "CTXCOMP_PEER_PYTHON" in os.environ
    failed = []
    for name, *arguments in (*BENCHMARKS, *((name,) for name in WITH_PEER if peer)):
        print(f"\n== {name}", flush=True)
        if _fails(f"ctxcomp_eval.bench.{name}", *arguments):
            failed.append(name)
    print("\n== ctxcomp eval", flush=True)
    if _fails("ctxcomp", "eval", *EVALUATION):
        failed.append("eval")
    print(f"\nfailed: {', '.join(failed) or 'none'}" + ("" if peer else f"; left out, no peer: {', '.join(WITH_PEER)}"))
    return int(bool(failed))


def _fails(*arguments: str) -> bool:
    return bool(subprocess.run([sys.executable, "-m", *arguments], check=False).returncode)


if __name__ == "__main__":
    sys.exit(main())
