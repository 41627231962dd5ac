"""squad_dev: one Wikipedia paragraph a question, and span_dev, the same for choices.

SQuAD 1.1 dev (Rajpurkar et al. 2016, CC BY-SA 4.0). The paragraph is known to be the right one, so what is measured is
what a method leaves out inside it: keeps of .25 and more make sense. ``limit`` samples all articles. span_dev is the
part of qa/span_train that nothing is trained on.

- ``retention``: an answer is still there, of the questions where one is in the full context.
"""

from __future__ import annotations

from ctxcomp_eval.data import Example, load, sample
from ctxcomp_eval.tasks import Task
from ctxcomp_eval.tasks.measures import answer_retention


def _task(name: str) -> Task:
    def examples(limit: int | None) -> list[Example]:
        return sample(load(name), limit)

    return Task(name, ("retention",), examples, answer_retention)


TASK = _task("squad_dev")
DEV = _task("span_dev")
