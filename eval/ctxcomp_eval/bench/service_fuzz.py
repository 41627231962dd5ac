"""schemathesis on the service's own OpenAPI: no 5xx, no hang, nothing undocumented. Writes results/service_fuzz.csv.

    python -m ctxcomp_eval.bench.service_fuzz --cases 10000

Each phase (examples, coverage, fuzzing, stateful) sends its own cases; operations share the rest evenly.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxcomp_eval.bench.common import RESULTS, write_csv
from ctxcomp_eval.bench.service_process import ServiceProcess

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "unsupported_method", "allow_header_conformance", "ignored_auth",
)  # fmt: skip
HANG_SECONDS = 60.0
OPERATIONS = 9
PACKAGES = ("ctxcomp", "fastapi", "starlette", "pydantic", "uvicorn", "schemathesis", "hypothesis")


@dataclass(frozen=True, slots=True)
class Found:
    """What a run came to: how often each operation answered with each status (0 for none), and what was wrong."""

    operations: dict[str, Counter[int]]
    failures: list[str]
    seconds: float

    @property
    def cases(self) -> int:
        """Requests that were sent."""
        return sum(statuses.total() for statuses in self.operations.values())


def fuzz(url: str, *, cases: int, key: str | None = None, seed: int = 0, phases: str | None = None) -> Found:
    """Run schemathesis against a service.

    Parameters
    ----------
    url: where the service answers.
    cases: most cases of one phase for one operation.
    key: sent as a bearer token.
    phases: comma-separated; all if None.
    """
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.ndjson"
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json",
            "--max-examples", str(cases), "--seed", str(seed), "--checks", ",".join(CHECKS),
            "--request-timeout", str(HANG_SECONDS), "--continue-on-failure", "--generation-database", "none",
            "--no-color", "--warnings", "off", "--report", "ndjson", "--report-ndjson-path", str(report),
        ]  # fmt: skip
        command += ["--phases", phases] if phases else []
        command += ["--header", f"Authorization: Bearer {key}"] if key else []
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if not report.is_file():
            raise RuntimeError(f"schemathesis did not run:\n{ended.stdout}\n{ended.stderr}")
        events = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    return _read(events, time.perf_counter() - began)


def _read(events: list[dict[str, Any]], seconds: float) -> Found:
    operations: dict[str, Counter[int]] = {}
    failures: list[str] = []
    for scenario in (event["ScenarioFinished"]["recorder"] for event in events if "ScenarioFinished" in event):
        for case, interaction in scenario.get("interactions", {}).items():
            label = "{method} {path}".format(**scenario["cases"][case]["value"])
            answer = interaction["response"]
            operations.setdefault(label, Counter())[answer["status_code"] if answer else 0] += 1
            wrong = [c for c in scenario.get("checks", {}).get(case, ()) if c["status"] != "success"]
            failures += [f"{label}: {json.dumps(check)[:500]}" for check in wrong]
            failures += [] if answer else [f"{label}: no answer within {HANG_SECONDS:g} s"]
    failures += [json.dumps(event["NonFatalError"])[:500] for event in events if "NonFatalError" in event]
    return Found(operations, failures, seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="at least, over all operations")
    parser.add_argument("--method", default="sentence_pruner", help="the service's default method")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "service_fuzz.csv")
    options = parser.parse_args(arguments)
    rounds: list[Found] = []
    with ServiceProcess(METHOD=options.method) as service:
        while (done := sum(found.cases for found in rounds)) < options.cases:
            wanted = max(10, (options.cases - done) // OPERATIONS)
            rounds.append(fuzz(service.url, cases=wanted, key=service.key, seed=options.seed + len(rounds)))
            print(f"{done + rounds[-1].cases} cases, {len(rounds[-1].failures)} failures, {rounds[-1].seconds:.0f} s")
        errors = [line for line in service.log().splitlines() if '"level": "error"' in line]
    operations: dict[str, Counter[int]] = {}
    for found in rounds:
        for label, statuses in found.operations.items():
            operations.setdefault("other HTTP methods" if set(statuses) == {405} else label, Counter()).update(statuses)
    failures = [failure for found in rounds for failure in found.failures]
    rows = [
        {
            "operation": label, "cases": sum(statuses.values()),
            "statuses": " ".join(f"{status}:{n}" for status, n in sorted(statuses.items())),
            "server_errors": sum(n for status, n in statuses.items() if status >= 500 or not status),
            "failures": sum(failure.startswith(f"{label}:") for failure in failures), "logged_errors": len(errors),
        }
        for label, statuses in sorted(operations.items())
    ]  # fmt: skip
    for line in [*failures, *errors]:
        print(line)
    write_csv(options.out, rows, PACKAGES)
    return int(bool(failures or errors))


if __name__ == "__main__":
    sys.exit(main())
