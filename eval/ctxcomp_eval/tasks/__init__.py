"""Tasks: questions with their passages, and how a compressed context is judged. A new task is one file here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ctxcomp.errors import InputError
from ctxcomp.fields import nearest
from ctxcomp.types import CompressedText
from ctxcomp_eval.data import FILE_SUFFIXES, Example, load

Judge = Callable[[Example, CompressedText], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Task:
    """One set and its measures.

    Parameters
    ----------
    name: as ``ctxcomp eval --data`` takes it.
    metrics: names of the measures, all in [0, 1] and better when higher; the first is the headline.
    examples: the questions, the first so many or all for None.
    judge: the measures of one compressed context; a measure is left out where the question does not count for it.
    """

    name: str
    metrics: tuple[str, ...]
    examples: Callable[[int | None], list[Example]]
    judge: Judge


TASKS: dict[str, str] = {
    "nq20": "nq20:TASK",
    "hotpot10": "hotpot:TASK",
    "squad_dev": "squad:TASK",
    "qmsum_test": "qmsum:TASK",
    "cuad_test": "cuad:TASK",
    "tatqa_dev": "tatqa:TASK",
    "sentcomp_test": "sentcomp:TASK",
    "gsm8k": "worked_examples:GSM8K",
    "bbh": "worked_examples:BBH",
    "hotpot_dev": "hotpot:DEV",
    "span_dev": "squad:DEV",
}
"""Task name -> the `Task`, as ``module:NAME`` in this package. The last two are for choices, the others for reports."""


def task(name: str) -> Task:
    """A task by name, or the one of a user's own ``.jsonl`` or ``.csv`` file.

    Raises
    ------
    InputError: no such task; the message has the nearest name.
    """
    if name not in TASKS:
        if Path(name).suffix in FILE_SUFFIXES:
            return of_file(name)
        raise InputError(f"no task {name!r}: {nearest(name, TASKS)}, or give a {' or '.join(FILE_SUFFIXES)} file")
    module, _, attribute = TASKS[name].partition(":")
    found: Task = getattr(importlib.import_module(f"ctxcomp_eval.tasks.{module}"), attribute)
    return found


def of_file(path: str) -> Task:
    """Answer retention on a user's own questions (`ctxcomp_eval.data.load` says what is in the file)."""
    from ctxcomp_eval.tasks.measures import answer_retention

    return Task(path, ("retention",), partial(load, path), answer_retention)
