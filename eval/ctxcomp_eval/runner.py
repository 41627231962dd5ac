"""Running methods over a task: one outcome a question, method and keep, each on disk before the next batch begins."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from ctxcomp import Budget, CompressedText, Request
from ctxcomp.caching import fingerprint
from ctxcomp.compressor import Compressor
from ctxcomp.errors import CtxcompError, InputError
from ctxcomp.progress import Listener, listen
from ctxcomp_eval import provenance
from ctxcomp_eval.data import Example
from ctxcomp_eval.faithfulness import faithful
from ctxcomp_eval.journal import Journal
from ctxcomp_eval.specs import Spec
from ctxcomp_eval.tasks import Task


class Answerer(Protocol):
    """A reader or a language model that answers questions from contexts."""

    @property
    def name(self) -> str:
        """What tells it from others, its model included."""

    def answer(self, questions: Sequence[str], contexts: Sequence[str]) -> list[str]:
        """One answer a question, "" for none."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question under one method and keep: one line of a journal.

    Parameters
    ----------
    id: the question's.
    metrics: what the task's judge and the answerers measured; what the question does not count for is left out.
    seconds: wall time of the compression, an equal share of its batch.
    over_budget: whether more tokens came out than were allowed, both by the method's own count.
    faithful: whether nothing stands in the result that is not in the source; None where it has no spans to check.
    predictions: what each answerer said, by its label.
    """

    id: str
    metrics: dict[str, float]
    tokens_in: int
    tokens_out: int
    seconds: float
    counter: str
    over_budget: bool = False
    faithful: bool | None = True
    fallback: str | None = None
    predictions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Setup:
    """How to run.

    Parameters
    ----------
    runs: the folder of the journals.
    batch: questions per ``compress_batch``, >= 1; changes no result.
    fresh: start over instead of going on.
    answerers: by label, the prefix of their metrics.
    """

    runs: Path
    batch: int = 16
    fresh: bool = False
    answerers: Mapping[str, Answerer] = field(default_factory=dict)

    def journal(self, task: Task, name: str, *decisive: str) -> Journal:
        """The journal of a run: other code, weights or settings, another file."""
        digest = _digest([provenance.sources(), *decisive])
        file = f"{_safe(name)}_{digest}.jsonl"
        return Journal(self.runs / _safe(Path(task.name).stem) / file, fresh=self.fresh)


def measure(
    task: Task, examples: Sequence[Example], spec: Spec, keeps: Sequence[float], setup: Setup
) -> dict[float, list[Outcome]]:
    """Run one method at every keep, and return an outcome for each example.

    All keeps of a question go into one batch, where methods that score before they cut share their encoder pass.

    Raises
    ------
    CtxcompError: what the method raised, with its name.
    InputError: its results are not text, or a metric is not a finite number.
    """
    compressor = spec.load()
    decisive = (spec.settings, _weights(compressor), *_identities(setup.answerers))
    journals = {keep: setup.journal(task, f"{spec.name}_keep{keep!r}", *decisive) for keep in keeps}
    keyed = {example_key(example): example for example in examples}
    missing = [key for key in keyed if any(key not in journal for journal in journals.values())]
    for part, ticking in _progress(missing, setup.batch, f"{Path(task.name).stem} {spec}"):
        todo = [(keep, key) for key in part for keep in keeps if key not in journals[keep]]
        requests = [Request(keyed[key].question, keyed[key].passages, Budget(keep=keep)) for keep, key in todo]
        try:
            with listen(ticking):
                results = compressor.compress_batch(requests)
        except CtxcompError as error:
            raise type(error)(f"{spec}: {error}") from error
        if wrong := next((r for r in results if not isinstance(r, CompressedText)), None):
            raise InputError(f"{spec} returns {type(wrong).__name__}: this evaluation needs text")
        with listen(ticking):
            outcomes = _outcomes(task, [keyed[key] for _, key in todo], requests, results, compressor, setup)
        for keep, journal in journals.items():
            done = zip(todo, outcomes, strict=True)
            journal.add({key: asdict(outcome) for (k, key), outcome in done if k == keep})
    return {keep: [_outcome_of(journal.rows[example_key(e)]) for e in examples] for keep, journal in journals.items()}


def full_answers(task: Task, examples: Sequence[Example], label: str, setup: Setup) -> list[dict[str, float]]:
    """What an answerer scores on each example's full context, where the example has answers."""
    answerer = setup.answerers[label]
    journal = setup.journal(task, f"full_{label}", *_identities({label: answerer}))
    keyed = {example_key(example): example for example in examples if example.answers}
    missing = [key for key in keyed if key not in journal]
    for part, ticking in _progress(missing, setup.batch, f"{Path(task.name).stem} full context, {label}"):
        with listen(ticking):
            found = _ask(answerer, [keyed[key] for key in part], [keyed[key].context for key in part])
        journal.add({key: {"prediction": prediction} for key, prediction in zip(part, found, strict=True)})
    rows = journal.rows
    return [answer_metrics(label, rows[example_key(e)]["prediction"], e.answers) if e.answers else {} for e in examples]


def answer_metrics(label: str, prediction: str, answers: Sequence[str]) -> dict[str, float]:
    """Exact match and F1 of an answer, under the answerer's label."""
    from ctxcomp_eval.answers import exact_match, f1

    return {f"{label}_em": exact_match(prediction, answers), f"{label}_f1": f1(prediction, answers)}


def example_key(example: Example) -> str:
    """What tells a question from others, its passages and answers included: an edited file is measured anew."""
    return _digest(asdict(example))


def _outcomes(
    task: Task,
    examples: Sequence[Example],
    requests: Sequence[Request],
    results: Sequence[CompressedText],
    compressor: object,
    setup: Setup,
) -> list[Outcome]:
    predictions: list[dict[str, str]] = [{} for _ in examples]
    asked = [i for i, example in enumerate(examples) if example.answers]
    for label, answerer in setup.answerers.items():
        found = _ask(answerer, [examples[i] for i in asked], [results[i].text for i in asked])
        for i, prediction in zip(asked, found, strict=True):
            predictions[i][label] = prediction
    outcomes = []
    for example, request, result, said in zip(examples, requests, results, predictions, strict=True):
        metrics = {name: float(value) for name, value in task.judge(example, result).items()}
        for label, prediction in said.items():
            metrics |= answer_metrics(label, prediction, example.answers)
        if bad := next((name for name, value in metrics.items() if not math.isfinite(value)), None):
            raise InputError(f"{task.name}: {bad} of question {example.id!r} is {metrics[bad]}, not a finite number")
        stats = result.stats
        outcomes.append(
            Outcome(
                id=example.id,
                metrics=metrics,
                tokens_in=stats.tokens_in,
                tokens_out=stats.tokens_out,
                seconds=stats.seconds,
                counter=stats.counter,
                over_budget=stats.tokens_out > request.budget.resolve(stats.tokens_in),
                faithful=_faithful(result, example, compressor),
                fallback=stats.fallback,
                predictions=said,
            )
        )
    return outcomes


def _faithful(result: CompressedText, example: Example, compressor: Any) -> bool | None:
    """Judged on the passages that were given, and the layout of the stage that put the text together."""
    if result.spans is None:
        return None
    while hasattr(compressor, "inner"):
        compressor = compressor.inner
    layout = getattr(compressor, "stages", (compressor,))[-1]
    return result.passages == example.passages and faithful(result, layout)


def _ask(answerer: Answerer, examples: Sequence[Example], contexts: Sequence[str]) -> list[str]:
    return answerer.answer([example.question for example in examples], contexts) if examples else []


def _outcome_of(row: Mapping[str, Any]) -> Outcome:
    return Outcome(**{name: value for name, value in row.items() if name != "key"})


def _progress(keys: Sequence[str], batch: int, what: str) -> Iterator[tuple[Sequence[str], Listener]]:
    """The keys in batches, with a bar on standard error, and what shows the progress inside a batch."""
    with tqdm(total=len(keys), desc=what, unit="question", miniters=0, disable=not keys or sys.stderr is None) as bar:

        def tick(done: int, total: int) -> None:
            bar.set_postfix_str(f"{done}/{total}", refresh=False)
            bar.update(0)

        for at in range(0, len(keys), batch):
            yield keys[at : at + batch], tick
            bar.set_postfix_str("", refresh=False)
            bar.update(min(batch, len(keys) - at))


def _weights(compressor: Compressor[CompressedText]) -> str:
    """What `Cached` tells compressors apart by, their weights included; "" for those that it does not know."""
    try:
        return fingerprint(compressor)
    except InputError:
        return ""


def _identities(answerers: Mapping[str, Answerer]) -> list[str]:
    """Names, and addresses: two servers may have different models of one name."""
    return [f"{label}={one.name} {getattr(one, 'url', '')}" for label, one in sorted(answerers.items())]


def _safe(name: str) -> str:
    """A name as part of a file's name: peers and chains have signs in theirs that not every system takes."""
    return re.sub(r"[^\w.+-]", "-", name)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_plain).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else repr(value)
