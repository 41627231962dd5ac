"""nq20: 20 passages a question, one of which holds the answer.

Natural Questions open dev (CC BY-SA 3.0), each question with its gold passage and 19 BM25 distractors that lack the
answer, selected by lost-in-the-middle (Liu et al. 2023, MIT); ``limit`` takes the first questions.

- ``retention``: an answer is still there, of the questions where one is in the full context.
- ``gold_kept``: something of the gold passage is left.
- ``distractors_removed``: the share of the other passages of which nothing is left. At a fixed keep it says how
  focussed a method is; it is meant for methods that stop by themselves, at a threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ctxcomp.types import CompressedText
from ctxcomp_eval.data import Example, load
from ctxcomp_eval.tasks import Task
from ctxcomp_eval.tasks.measures import answer_retention


def judge(example: Example, result: CompressedText) -> Mapping[str, float]:
    """The measures above."""
    left = [bool(text.strip()) for text in result.passage_texts]
    removed = [not something for i, something in enumerate(left) if i not in example.gold]
    measures = dict(answer_retention(example, result))
    if example.gold:
        measures["gold_kept"] = float(any(left[i] for i in example.gold))
    if removed:
        measures["distractors_removed"] = sum(removed) / len(removed)
    return measures


TASK = Task("nq20", ("retention", "gold_kept", "distractors_removed"), partial(load, "nq20"), judge)
