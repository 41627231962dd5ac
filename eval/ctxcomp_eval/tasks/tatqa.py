"""tatqa_dev: questions on a table and the text around it, from financial reports.

TAT-QA dev (Zhu et al. 2021, CC BY 4.0). The table is a passage in Markdown, its first row the header; each paragraph
is one more. ``limit`` samples all tables. Answers that are counts are not measured: "2" is found anywhere.

- ``retention``: the answer is still there, all parts of it where it is a list, of the questions where that is so in
  the full context.
- ``operands``: of the questions that are to be calculated, all numbers of the calculation are still there; counts
  where they are in the full context. Numbers of one digit and 100 are left aside: they average or make percent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ctxcomp.types import CompressedText, Passage
from ctxcomp_eval.data import Example, data_dir, read_rows, sample
from ctxcomp_eval.tasks import Task
from ctxcomp_eval.tasks.measures import all_retained

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
_MEASURE = {"span": "retention", "multi-span": "retention", "arithmetic": "operands"}


def judge(example: Example, result: CompressedText) -> Mapping[str, float]:
    """The measures above."""
    measure = _MEASURE.get(example.kind)
    if measure is None or not example.needed or not all_retained(example.needed, example.context):
        return {}
    return {measure: float(all_retained(example.needed, result.text))}


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, the first row as its header; a cell keeps to one line, and its bars are escaped."""
    lines = ["| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def operands(derivation: str) -> tuple[str, ...]:
    """The numbers of a calculation, in order, each once; without those of one digit and 100."""
    found = dict.fromkeys(_NUMBER.findall(derivation))
    return tuple(number for number in found if sum(map(str.isdigit, number)) > 1 and number != "100")


def _all() -> Iterator[Example]:
    for row in read_rows(data_dir() / "eval" / "tatqa_dev.jsonl.gz"):
        table = Passage(markdown(row["table"]["table"]), id=row["table"]["uid"])
        paragraphs = (Passage(paragraph["text"], id=paragraph["uid"]) for paragraph in row["paragraphs"])
        passages = (table, *paragraphs)
        for question in row["questions"]:
            yield _example(question, passages)


def _example(question: dict[str, Any], passages: tuple[Passage, ...]) -> Example:
    kind, answer, scale = question["answer_type"], question["answer"], question["scale"]
    parts = tuple(map(str, answer if isinstance(answer, list) else [answer]))
    whole = ", ".join(parts)
    needed = {"arithmetic": operands(question["derivation"]), "count": ()}.get(kind, parts)
    answers = (whole, f"{whole} {scale}") if scale and kind == "arithmetic" else (whole,)
    return Example(question["uid"], question["question"], answers, passages, kind=kind, needed=needed)


TASK = Task("tatqa_dev", ("retention", "operands"), lambda limit: sample(_all(), limit), judge)
