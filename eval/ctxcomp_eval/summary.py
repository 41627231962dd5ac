"""Outcomes to rows: means with intervals, paired differences, cost; and the results file they are kept in."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxcomp.errors import InputError
from ctxcomp_eval import data, provenance
from ctxcomp_eval.retention import Interval, bootstrap, paired_difference
from ctxcomp_eval.runner import Outcome
from ctxcomp_eval.specs import Spec

PACKAGES = ("ctxcomp", "numpy", "torch", "transformers", "onnxruntime", "tokenizers", "tiktoken", "llmlingua")

Metrics = Sequence[Mapping[str, float]]
"""The metrics of each question, in one order for all methods; what a question does not count for is left out."""


@dataclass(frozen=True, slots=True)
class Estimate(Interval):
    """A mean with its interval, over ``n`` questions."""

    n: int


@dataclass(frozen=True, slots=True)
class Row:
    """One run: a method with its settings, at one keep, over a task.

    Parameters
    ----------
    metrics: by name; ``*_full`` is what an answerer scores on the full context.
    minus_first: the paired difference to the first method at the same keep; empty for the first itself.
    minus_full: the paired difference of an answerer's metrics to those on the full context.
    keep_spent: mean of tokens out / tokens in.
    seconds_p50: the median question's share of its batch.
    over_budget: results with more tokens than were allowed.
    checked: results whose faithfulness could be checked; ``unfaithful`` of them hold what the source does not.
    answerers: who answered, by the prefix of the metrics.
    """

    task: str
    method: str
    settings: dict[str, Any]
    keep: float
    questions: int
    metrics: dict[str, Estimate]
    first: str
    minus_first: dict[str, Estimate]
    minus_full: dict[str, Estimate]
    keep_spent: float
    tokens_in: float
    tokens_out: float
    seconds_p50: float
    fallbacks: int
    over_budget: int
    checked: int
    unfaithful: int
    counter: str
    answerers: dict[str, str]

    @property
    def label(self) -> str:
        """The method with its settings, as the command line takes them."""
        return str(Spec(self.method, self.settings))


def summarise(
    task: str,
    spec: Spec,
    keep: float,
    outcomes: Sequence[Outcome],
    first: tuple[Spec, Sequence[Outcome]],
    full: Metrics,
    order: Sequence[str] = (),
    answerers: Mapping[str, str] | None = None,
) -> Row:
    """Aggregate the outcomes of one run.

    Parameters
    ----------
    outcomes: one or more.
    first: what the differences are taken against, on the same questions.
    full: what the answerers score on the full contexts, by question.
    order: the metrics that go before others.
    """
    own = [{name: o.metrics[name] for name in [*order, *o.metrics] if name in o.metrics} for o in outcomes]
    reference = [outcome.metrics for outcome in first[1]]
    metrics = _estimates(own) | {f"{name}_full": value for name, value in _estimates(full).items()}
    return Row(
        task=task,
        method=spec.name,
        settings=spec.fields,
        keep=keep,
        questions=len(outcomes),
        metrics=metrics,
        first=str(first[0]),
        minus_first={} if spec == first[0] else _differences(own, reference),
        minus_full=_differences(own, full),
        keep_spent=float(np.mean([o.tokens_out / o.tokens_in if o.tokens_in else 1.0 for o in outcomes])),
        tokens_in=float(np.mean([o.tokens_in for o in outcomes])),
        tokens_out=float(np.mean([o.tokens_out for o in outcomes])),
        seconds_p50=float(np.median([o.seconds for o in outcomes])),
        fallbacks=sum(o.fallback is not None for o in outcomes),
        over_budget=sum(o.over_budget for o in outcomes),
        checked=sum(o.faithful is not None for o in outcomes),
        unfaithful=sum(o.faithful is False for o in outcomes),
        counter="+".join(sorted({o.counter for o in outcomes})),
        answerers=dict(answerers or {}),
    )


def column(metrics: Metrics, name: str) -> NDArray[np.float64]:
    """One metric of all questions, shape ``[n]``; NaN where a question does not count for it."""
    return np.asarray([values.get(name, np.nan) for values in metrics], dtype=np.float64)


def _names(metrics: Metrics) -> list[str]:
    """In the order of a question that has most of them."""
    return list(dict.fromkeys(name for values in sorted(metrics, key=len, reverse=True) for name in values))


def _estimates(metrics: Metrics) -> dict[str, Estimate]:
    columns = {name: column(metrics, name) for name in _names(metrics)}
    return {name: _estimate(bootstrap(values[~np.isnan(values)]), values) for name, values in columns.items()}


def _differences(own: Metrics, other: Metrics) -> dict[str, Estimate]:
    """Of the metrics that both have, over the questions that count in both."""
    found = {}
    for name in _names(own):
        a, b = column(own, name), column(other, name)
        both = ~np.isnan(a - b)
        if both.any():
            found[name] = _estimate(paired_difference(a[both], b[both]), a - b)
    return found


def _estimate(interval: Interval, values: NDArray[np.float64]) -> Estimate:
    return Estimate(interval.mean, interval.low, interval.high, int((~np.isnan(values)).sum()))


def write_results(path: Path, rows: Sequence[Row]) -> None:
    """One JSON line a run, replacing those of the same task, method, settings and keep, and leaving the others.

    Raises
    ------
    InputError: the file is there and holds something else.
    """
    stamp = {
        "commit": provenance.commit(),
        "versions": provenance.versions(*PACKAGES),
        "device": provenance.processor(),
        "date": provenance.today(),
    }
    found = {_identity(row): row for row in (read_results(path) if path.is_file() else [])}
    new = [_short(asdict(row)) | stamp for row in rows]
    found |= {_identity(row): row for row in new}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_text("".join(json.dumps(found[key]) + "\n" for key in sorted(found)), encoding="utf-8")
    os.replace(draft, path)


def read_results(path: Path) -> list[dict[str, Any]]:
    """The runs of a results file.

    Raises
    ------
    InputError: it is not there, or holds something else.
    """
    try:
        rows = [{key: value for key, value in row.items() if key != "_line"} for row in data.read_rows(path)]
        if all({"task", "method", "settings", "keep"} <= row.keys() for row in rows):
            return rows
        wrong = "the lines are about something else"
    except (InputError, UnicodeDecodeError) as error:
        wrong = str(error)
    raise InputError(f"{path} is no results file ({wrong}): move it away, or write to another folder")


def _identity(row: Mapping[str, Any]) -> tuple[str, str, str, float]:
    return row["task"], row["method"], json.dumps(row["settings"], sort_keys=True), row["keep"]


def _short(value: Any) -> Any:
    """Numbers in six digits, also inside."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value
