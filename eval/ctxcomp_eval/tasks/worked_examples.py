"""gsm8k and bbh: chain-of-thought prompts to be compressed for a new question.

The passages are the worked examples of a prompt, the query is a question of the test set. GSM8K (Cobbe et al. 2021,
MIT) with its usual prompt of eight examples; BIG-Bench Hard (Suzgun et al. 2022, MIT) with three a task after a line
that describes the task, without the canary line. ``limit`` takes the first questions of gsm8k and samples all tasks of
bbh. ``answers`` are those of the test question, for a model that is given the compressed prompt; they are not in it.

A worked example is intact when it still teaches the form: all characters of its question mark ("Question:", "Q:"), of
"Let's think step by step", of all numbers and signs (+ - * / = < >) of its reasoning and of "the answer is X" are
kept, and something of every line of its reasoning. It may lose words, and all of its question but the mark. Dropping
it altogether is right where there is no room: few whole examples are better than many torn ones.

- ``structure``: of the worked examples of which something is left, the share that is intact; 0 where none is left.
- ``examples``: the share of all worked examples that is intact.
- ``answers_kept``: of those of which something is left, the share whose "the answer is X" is whole.
- ``numbers_kept``: of those of which something is left, the share of numbers and signs kept, if they have any.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from ctxcomp.types import CompressedText, Passage
from ctxcomp_eval.data import Example, data_dir, first, read_rows, sample
from ctxcomp_eval.tasks import Task
from ctxcomp_eval.tasks.measures import Kept

METRICS = ("structure", "examples", "answers_kept", "numbers_kept")
_FORM = re.compile(
    r"(?P<mark>Question:|Q:).*?(?P<hinge>(?:A: )?Let's think step by step)\.?\s+"
    r"(?P<steps>.*(?<!So ))(?:So )?(?P<answer>[Tt]he answer is\s+[^\n]+?)\.?\s*",
    re.DOTALL,
)
_SIGNS = re.compile(r"\d+(?:[.,]\d+)*|[+*/=<>]|(?<=[\d()\s])-(?=\s?[\d(])")
Stretch = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Pieces:
    """Where the parts of a worked example stand, as (start, end) in characters."""

    marks: tuple[Stretch, ...]
    steps: tuple[Stretch, ...]
    signs: tuple[Stretch, ...]
    answer: Stretch


@cache
def pieces(text: str) -> Pieces | None:
    """The parts of a worked example; None for a text that is none, such as the description of a task."""
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    start, end = found.span("steps")
    steps = tuple(line.span() for line in re.compile(r"[^\n]*\S[^\n]*").finditer(text, start, end))
    signs = tuple(match.span() for match in _SIGNS.finditer(text, start, end))
    return Pieces((found.span("mark"), found.span("hinge")), steps, signs, found.span("answer"))


def judge(example: Example, result: CompressedText) -> Mapping[str, float]:
    """The measures above."""
    parts = {p: found for p, passage in enumerate(example.passages) if (found := pieces(passage.text))}
    if result.spans is None or not parts:
        return {}
    kept = Kept(result)
    left = {p: found for p, found in parts.items() if kept.any(p)}
    intact = sum(_intact(kept, p, found) for p, found in left.items())
    measures = {"structure": intact / len(left) if left else 0.0, "examples": intact / len(parts)}
    if left:
        measures["answers_kept"] = sum(kept.whole((p, *found.answer)) for p, found in left.items()) / len(left)
    signs = [kept.whole((p, *sign)) for p, found in left.items() for sign in found.signs]
    return {**measures, "numbers_kept": sum(signs) / len(signs)} if signs else measures


def _intact(kept: Kept, p: int, parts: Pieces) -> bool:
    whole = (*parts.marks, *parts.signs, parts.answer)
    return all(kept.whole((p, *part)) for part in whole) and all(kept.share((p, *step)) > 0 for step in parts.steps)


def _gsm8k() -> Iterator[Example]:
    folder = data_dir() / "eval"
    prompt = (folder / "gsm8k_cot_prompt.txt").read_text(encoding="utf-8")
    passages = _passages("gsm8k", prompt)
    for row in read_rows(folder / "gsm8k_test.jsonl.gz"):
        answer = row["answer"].rpartition("#### ")[2].strip()
        yield Example(f"gsm8k-{row['_line']}", row["question"], (answer,), passages)


def _bbh() -> Iterator[Example]:
    for row in read_rows(data_dir() / "eval" / "bbh.jsonl.gz"):
        prompt = row["cot_prompt"].partition("-----\n")[2]
        passages = _passages(row["task"], prompt)
        for i, one in enumerate(row["examples"]):
            yield Example(f"{row['task']}-{i}", one["input"], (one["target"],), passages, kind=row["task"])


def _passages(name: str, prompt: str) -> tuple[Passage, ...]:
    texts = re.split(r"\n\n(?=Question:|Q:)", prompt.strip())
    return tuple(Passage(text.strip(), id=f"{name}:{i}") for i, text in enumerate(texts))


GSM8K = Task("gsm8k", METRICS, lambda limit: first(_gsm8k(), limit), judge)
BBH = Task("bbh", METRICS, lambda limit: sample(_bbh(), limit), judge)
