"""Answer retention of text methods at equal keep, resumable.

    python -m ctxcomp_eval.bench.retention --data nq20 --methods truncate,random,bm25 --keep 0.1,0.25

A method may carry settings, in the form of a web address: ``bm25?unit=sentence&stem=true`` (values are JSON
where they parse as such, else text). Milliseconds are a question's share of its batch. What is done lies in runs/ per
method and keep; the same call goes on there.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from tqdm import tqdm

from ctxcomp import Budget, CompressedText, Request, load
from ctxcomp.errors import InputError
from ctxcomp_eval import data, provenance
from ctxcomp_eval.retention import Outcome, Run, answerable, paired_difference, retained, summarise

PACKAGES = ("ctxcomp", "numpy", "torch", "transformers", "onnxruntime", "tokenizers", "tiktoken")


@dataclass(frozen=True, slots=True)
class Method:
    """A registered method with its settings."""

    name: str
    fields: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> Method:
        """Read ``name`` or ``name?key=value&key=value``."""
        name, _, query = text.strip().partition("?")
        return cls(name, {key: _value(value) for key, value in parse_qsl(query, keep_blank_values=True)})

    @property
    def settings(self) -> str:
        """The settings as JSON, the same text for the same settings."""
        return json.dumps(self.fields, sort_keys=True)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def full_context(example: data.Example) -> str:
    """All passages of a question as one text: what "the answer is in the full context" is judged on."""
    return "\n\n".join(passage.text for passage in example.passages)


def finished(path: Path) -> dict[str, Outcome]:
    """The outcomes in a run's file by question; a line that an interruption cut short is dropped from the file."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    outcomes = (Outcome(**json.loads(line)) for line in whole.splitlines())
    return {outcome.id: outcome for outcome in outcomes}


def measure(
    method: Method, paths: Mapping[float, Path], examples: Sequence[data.Example], batch: int
) -> dict[float, list[Outcome]]:
    """Run one method at every keep over the examples that the files do not hold yet, and append them.

    All keeps of a question go into one batch, where methods that score before they cut share their encoder pass.

    Parameters
    ----------
    paths: the file of each keep.

    Raises
    ------
    InputError: the method's results are not text.
    """
    done = {keep: finished(path) for keep, path in paths.items()}
    missing = [example for example in examples if any(example.id not in found for found in done.values())]
    compressor = load(method.name, **method.fields)
    for at in tqdm(range(0, len(missing), batch), desc=method.name, unit="batch", disable=not missing):
        todo = [(k, e) for e in missing[at : at + batch] for k in paths if e.id not in done[k]]
        requests = [Request(example.question, example.passages, Budget(keep=keep)) for keep, example in todo]
        for (keep, example), result in zip(todo, compressor.compress_batch(requests), strict=True):
            if not isinstance(result, CompressedText):
                raise InputError(f"{method.name} returns {type(result).__name__}: retention needs text")
            done[keep][example.id] = _outcome(example, result)
        for keep, path in paths.items():
            fresh = [done[keep][example.id] for k, example in todo if k == keep]
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as lines:
                lines.writelines(json.dumps(asdict(outcome)) + "\n" for outcome in fresh)
    return {keep: [found[example.id] for example in examples] for keep, found in done.items()}


def _outcome(example: data.Example, result: CompressedText) -> Outcome:
    return Outcome(
        id=example.id,
        answerable=retained(example.answers, full_context(example)),
        retained=retained(example.answers, result.text),
        tokens_in=result.stats.tokens_in,
        tokens_out=result.stats.tokens_out,
        seconds=result.stats.seconds,
        counter=result.stats.counter,
        fallback=result.stats.fallback,
    )


def run_file(folder: Path, name: str, method: Method, keep: float) -> Path:
    """Where the outcomes of one method and keep lie: other settings or another commit, another file."""
    settings = hashlib.sha256(method.settings.encode()).hexdigest()[:8]
    file = f"{method.name}_{settings}_keep{keep:g}_{provenance.commit()}.jsonl"
    return folder / f"retention_{Path(name).stem}" / file


def write_results(path: Path, runs: Sequence[Run]) -> None:
    """Write the runs as CSV, replacing rows of the same method, settings and keep, leaving the others."""
    stamp = {
        "commit": provenance.commit(),
        "versions": provenance.versions(*PACKAGES),
        "device": provenance.processor(),
        "date": provenance.today(),
    }
    rows = [{key: _short(value) for key, value in asdict(run).items()} | stamp for run in runs]
    if not rows:
        return
    new = {(row["method"], row["settings"], row["keep_asked"]) for row in rows}
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as lines:
            old = [
                row for row in csv.DictReader(lines) if (row["method"], row["settings"], row["keep_asked"]) not in new
            ]
        rows = [*old, *rows]
    rows.sort(key=lambda row: (row["method"], row["settings"], float(row["keep_asked"])))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def table(runs: Sequence[Run], differences: Sequence[str]) -> str:
    """The runs as a Markdown table; ``differences`` is the last column, one text per run."""
    lines = [
        "| method | settings | keep asked | keep spent | tokens out | retention [95 %] | minus first [95 %] | n | ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run, difference in zip(runs, differences, strict=True):
        share = f"{run.retention:.3f} [{run.low:.3f}, {run.high:.3f}]"
        settings = run.settings.strip("{}").replace("|", "\\|")
        lines.append(
            f"| {run.method} | {settings} | {run.keep_asked:g} | {run.keep_spent:.3f} | {run.tokens_out:.0f} "
            f"| {share} | {difference} | {run.n} | {run.seconds_p50 * 1000:.1f} |"
        )
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="nq20", help="a set's name, or a .jsonl or .csv file")
    parser.add_argument("--methods", required=True, help="comma-separated; differences are against the first")
    parser.add_argument("--keep", default="0.05,0.1,0.25,0.5", help="comma-separated, each in (0, 1]")
    parser.add_argument("--limit", type=int, help="only the first so many questions")
    parser.add_argument("--batch", type=int, default=16, help="questions per compress_batch")
    parser.add_argument("--runs", type=Path, default=provenance.ROOT / "runs", help="folder of what is done so far")
    parser.add_argument("--out", type=Path, default=provenance.ROOT / "eval" / "results", help="folder of the CSV")
    parser.add_argument("--fresh", action="store_true", help="start over, after changes that are not committed")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    examples = data.load(options.data, options.limit)
    methods = [Method.parse(text) for text in options.methods.split(",")]
    keeps = [float(text) for text in options.keep.split(",")]
    measured: list[dict[float, list[Outcome]]] = []
    for method in methods:
        paths = {keep: run_file(options.runs, options.data, method, keep) for keep in keeps}
        if options.fresh:
            for path in paths.values():
                path.unlink(missing_ok=True)
        measured.append(measure(method, paths, examples, options.batch))
    runs: list[Run] = []
    differences: list[str] = []
    for keep in keeps:
        first = answerable(measured[0][keep])
        for i, method in enumerate(methods):
            runs.append(summarise(method.name, method.settings, keep, measured[i][keep]))
            own = answerable(measured[i][keep])
            differences.append(str(paired_difference(own, first)) if i else "")
    part = f"_first{options.limit}" if options.limit else ""
    write_results(options.out / f"retention_{Path(options.data).stem}{part}.csv", runs)
    print(table(runs, differences))


if __name__ == "__main__":
    main()
