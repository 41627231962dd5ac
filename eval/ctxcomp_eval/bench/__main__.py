"""Every benchmark, one after the other: ``python -m ctxcomp_eval.bench`` (`make bench`); about an hour on 2 cores."""

from __future__ import annotations

import os
import subprocess
import sys

METHODS = "random,truncate?by_passage_score=true,bm25,embedding_select,token_pruner"
BENCHMARKS: tuple[tuple[str, ...], ...] = (
    ("segmenters",),
    ("encoders",),
    ("fit_speed",),
    ("call_share",),
    ("memory",),
    ("budget_fuzz",),
    ("retention", "--data", "nq20", "--methods", METHODS),
)
WITH_PEER = ("llmlingua_speed", "llmlingua_parity")
"""These need the peer's environment, named by CTXCOMP_PEER_PYTHON."""


def main() -> int:
    peer = "CTXCOMP_PEER_PYTHON" in os.environ
    failed = []
    for name, *arguments in (*BENCHMARKS, *((name,) for name in WITH_PEER if peer)):
        print(f"\n== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"ctxcomp_eval.bench.{name}", *arguments], check=False).returncode:
            failed.append(name)
    print(f"\nfailed: {', '.join(failed) or 'none'}" + ("" if peer else f"; left out, no peer: {', '.join(WITH_PEER)}"))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
