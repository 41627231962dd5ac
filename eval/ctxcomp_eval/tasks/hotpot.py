"""hotpot10: ten passages, two of which hold the supporting facts; hotpot_dev is the same, for choices.

HotpotQA in the distractor setting (Yang et al. 2018, CC BY-SA 4.0), with its sentence labels; ``limit`` takes the first
questions. A fact is kept when all its visible characters are: half a sentence is none.

- ``support``: all labelled sentences are kept.
- ``support_recall``: the share of their characters that is kept, mean over the sentences.
- ``retention``: an answer is still there, of the questions where one is in the full context. Questions with the
  answer yes or no do not count: the words say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ctxcomp.types import CompressedText
from ctxcomp_eval.data import Example, load
from ctxcomp_eval.retention import normalise
from ctxcomp_eval.tasks import Task
from ctxcomp_eval.tasks.measures import Kept, answer_retention


def judge(example: Example, result: CompressedText) -> Mapping[str, float]:
    """The measures above."""
    measures: dict[str, float] = {}
    if example.support and result.spans is not None:
        kept = Kept(result)
        shares = [kept.share(fact) for fact in example.support]
        measures["support"] = float(min(shares) == 1.0)
        measures["support_recall"] = sum(shares) / len(shares)
    if {normalise(answer) for answer in example.answers}.isdisjoint({"yes", "no"}):
        measures.update(answer_retention(example, result))
    return measures


def _task(name: str) -> Task:
    return Task(name, ("support", "support_recall", "retention"), partial(load, name), judge)


TASK = _task("hotpot10")
DEV = _task("hotpot_dev")
