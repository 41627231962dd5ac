"""``ctxcomp eval``: methods on a set, or on the user's own questions, as a table, JSON lines, a picture and a page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctxcomp.cli import Parser, write_out
from ctxcomp.errors import InputError
from ctxcomp.optional import require
from ctxcomp.registry import DEFAULT_METHOD
from ctxcomp_eval.data import Example
from ctxcomp_eval.examples import Measured, duels, rival
from ctxcomp_eval.plot import picture
from ctxcomp_eval.report import page
from ctxcomp_eval.retention import retained
from ctxcomp_eval.runner import Answerer, Setup, full_answers, measure
from ctxcomp_eval.specs import Spec, baselines, parse_methods, unique
from ctxcomp_eval.summary import Row, summarise, write_results
from ctxcomp_eval.tables import main_table, notes
from ctxcomp_eval.tasks import TASKS, Task, task


@dataclass(frozen=True)
class Evaluation:
    """One task, measured: what the reports are made of."""

    task: Task
    name: str
    examples: list[Example]
    measured: list[Measured]
    given: int
    rows: list[Row]

    @property
    def headline(self) -> str:
        """The metric that comes first."""
        return self.task.metrics[0]


def main(argv: Sequence[str]) -> int:
    """Run ``ctxcomp eval`` with its arguments; returns the exit status: 1 if a result was found unfaithful.

    Raises
    ------
    InputError: an argument or a file cannot be used.
    MissingDependencyError: matplotlib is not installed.
    KeyboardInterrupt: with a line that says how to go on.
    """
    options = parser().parse_args(argv)
    require("matplotlib", extra="eval")  # hours later would be too late
    keeps = _keeps(options.keep)
    for name, least in (("batch", 1), ("examples", 0)):
        if getattr(options, name) < least:
            raise InputError(f"--{name} must be {least} or more, got {getattr(options, name)}")
    methods = parse_methods(options.methods)
    for method in methods:
        method.load()
    tasks = _tasks(options.data)
    questions = [_questions(one, options.limit) for one in tasks]
    setup = Setup(options.runs, options.batch, options.fresh, _answerers(options))
    options.out.mkdir(parents=True, exist_ok=True)
    unfaithful = 0
    try:
        for one, examples in zip(tasks, questions, strict=True):
            found = evaluate(one, examples, methods, keeps, setup, options)
            write(found, options.out, options.examples)
            unfaithful += sum(row.unfaithful for row in found.rows)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"what is done is in {setup.runs}, and the same command goes on there") from None
    return int(unfaithful > 0)


def evaluate(
    one: Task,
    examples: list[Example],
    methods: list[Spec],
    keeps: list[float],
    setup: Setup,
    options: argparse.Namespace,
) -> Evaluation:
    """Measure every method and baseline at every keep.

    Raises
    ------
    InputError: no question counts for the headline metric.
    """
    specs = unique([*methods, *(baselines(examples) if options.baselines else [])])
    full = [full_answers(one, examples, label, setup) for label in setup.answerers]
    on_full = [{name: value for part in parts for name, value in part.items()} for parts in zip(*full, strict=True)]
    measured: list[Measured] = []
    for spec in specs:
        outcomes = measure(one, examples, spec, keeps, setup)
        if not any(one.metrics[0] in outcome.metrics for outcome in outcomes[keeps[0]]):
            raise _nothing(one, len(examples))
        measured.append((spec, outcomes))
    name = Path(one.name).stem + (f"_first{options.limit}" if options.limit else "")
    first = measured[0]
    on_full = on_full or [{} for _ in examples]
    answerers = {label: answerer.name for label, answerer in setup.answerers.items()}
    rows = [
        summarise(name, spec, keep, outcomes[keep], (first[0], first[1][keep]), on_full, one.metrics, answerers)
        for keep in keeps
        for spec, outcomes in measured
    ]
    return Evaluation(one, name, examples, measured, len(methods), rows)


def write(found: Evaluation, folder: Path, examples: int) -> None:
    """The table to standard output; NAME.jsonl, NAME.png and NAME.html to the folder."""
    rows, headline = found.rows, found.headline
    write_results(folder / f"{found.name}.jsonl", rows)
    title = f"{found.name}: {rows[0].questions} questions"
    answered = [name for name in ("reader_f1", "llm_f1") if name in rows[0].metrics]
    plain = [str(spec) for spec, _ in found.measured[found.given :]]
    png = picture(rows, title, [headline, *answered], plain)
    (folder / f"{found.name}.png").write_bytes(png)
    other = rival(found.measured, found.given, headline)
    shown = duels(found.examples, found.measured[0], other, headline, examples) if other and examples else None
    (folder / f"{found.name}.html").write_text(page(title, rows, headline, png, shown), encoding="utf-8")
    lines = [f"## {title}", "", main_table(rows, headline).markdown(), "", *notes(rows)]
    lines.append(f"Written: {folder / found.name}.jsonl, .png and .html")
    write_out("\n".join(lines))


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = Parser(prog="ctxcomp eval", description="Measure methods on questions, against simple baselines.")
    made.add_argument(
        "--data",
        required=True,
        metavar="NAME_OR_FILE",
        help=f"comma-separated: a .jsonl or .csv file (question, answers, passages or context), or {', '.join(TASKS)}",
    )
    made.add_argument(
        "--methods",
        default=DEFAULT_METHOD,
        metavar="A,B",
        help="NAME, NAME?FIELD=VALUE&FIELD=VALUE, A+B or peer:NAME; differences are against the first "
        f"(default: {DEFAULT_METHOD})",
    )
    made.add_argument("--keep", default="0.02,0.05,0.1,0.25,0.5", metavar="F,F", help="each in (0, 1]")
    made.add_argument("--limit", type=int, metavar="N", help="so many questions only")
    made.add_argument("--batch", type=int, default=16, metavar="N", help="questions at a time (default: 16)")
    made.add_argument("--baselines", action=argparse.BooleanOptionalAction, default=True, help="random, truncate, bm25")
    made.add_argument("--reader", action="store_true", help="exact match and F1 of a small reader on what is left")
    made.add_argument(
        "--llm",
        metavar="URL",
        help="the same of any OpenAI-compatible model; its key is in CTXCOMP_LLM_KEY or OPENAI_API_KEY",
    )
    made.add_argument("--llm-model", metavar="NAME", help="the model's name at that address")
    made.add_argument("--examples", type=int, default=5, metavar="N", help="wins and losses to show (default: 5 each)")
    made.add_argument("--out", type=Path, default=Path("runs/report"), metavar="DIR", help="default: runs/report")
    made.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="what is done (default: runs)")
    made.add_argument("--fresh", action="store_true", help="start over instead of going on with what is done")
    return made


def _keeps(text: str) -> list[float]:
    try:
        keeps = list(dict.fromkeys(float(one) for one in text.split(",")))
    except ValueError:
        raise InputError(f"--keep takes numbers in (0, 1] with commas between, got {text!r}") from None
    if wrong := [keep for keep in keeps if not 0 < keep <= 1]:
        raise InputError(f"--keep must be in (0, 1], got {wrong[0]:g}: it is tokens out / tokens in")
    return sorted(keeps)


def _tasks(text: str) -> list[Task]:
    """A file's name may hold a comma; anything else is a list."""
    found = [task(name.strip()) for name in ([text] if Path(text).is_file() else text.split(","))]
    names = [Path(one.name).stem for one in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two data sets are called {twice!r}, and so would their results: rename a file")
    return found


def _questions(one: Task, limit: int | None) -> list[Example]:
    """The questions; those of a user's file must have an answer somewhere, before anything is run."""
    examples = one.examples(limit)
    if not examples or (
        one.name not in TASKS and not any(retained(example.answers, example.context) for example in examples)
    ):
        raise _nothing(one, len(examples))
    return examples


def _nothing(one: Task, count: int) -> InputError:
    return InputError(
        f"none of the {count} questions of {one.name} counts for {one.metrics[0]}: no answer is in its full context, "
        "or no result has the spans that it needs"
    )


def _answerers(options: argparse.Namespace) -> dict[str, Answerer]:
    if (options.llm is None) != (options.llm_model is None):
        raise InputError("--llm URL and --llm-model NAME go together")
    answerers: dict[str, Answerer] = {}
    if options.reader:
        from ctxcomp_eval.reader import load_reader

        answerers["reader"] = load_reader()
    if options.llm:
        from ctxcomp_eval.llm import ChatModel

        answerers["llm"] = ChatModel(options.llm, options.llm_model)
    return answerers
