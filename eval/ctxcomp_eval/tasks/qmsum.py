"""qmsum_test: questions on the transcripts of whole meetings, 4,000 to 30,000 tokens long.

QMSum (Zhong et al. 2021, MIT), with the turns that its annotators found relevant. A transcript is one turn a line,
with the speaker as in the text, in chunks of whole turns of up to 1,000 characters; ``limit`` samples all meetings.
The relevant turns are 6 % of a meeting (median; 26 % and more for a tenth of the questions), so that recall at a small
keep has a ceiling below 1, the same for every method.

- ``relevant``: recall, the share of the relevant turns' characters that is kept.
- ``precision``: the relevant turns' share of the characters that are kept, where anything is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ctxcomp.types import CompressedText
from ctxcomp_eval.data import Example, data_dir, read_rows, sample
from ctxcomp_eval.tasks import Task
from ctxcomp_eval.tasks.chunks import chunked
from ctxcomp_eval.tasks.measures import Kept


def judge(example: Example, result: CompressedText) -> Mapping[str, float]:
    """The measures above."""
    if result.spans is None:
        return {}
    found = Kept(result).overlap(example.support)
    measures = {"relevant": found.recall, "precision": found.precision}
    return {name: value for name, value in measures.items() if value is not None}


def _all() -> Iterator[Example]:
    for meeting in read_rows(data_dir() / "eval" / "qmsum_test.jsonl.gz"):
        turns: list[tuple[int, int]] = []
        at = 0
        for turn in meeting["turns"]:
            turns.append((at, at + len(turn)))
            at += len(turn) + 1
        document = chunked(meeting["id"], "\n".join(meeting["turns"]), turns)
        for i, query in enumerate(meeting["queries"]):
            relevant = [(turns[first][0], turns[last][1]) for first, last in query["relevant"]]
            yield Example(
                id=f"{meeting['id']}-{i}",
                question=query["question"],
                answers=(query["answer"].strip(),),
                passages=document.passages,
                support=document.evidence(relevant),
            )


TASK = Task("qmsum_test", ("relevant", "precision"), lambda limit: sample(_all(), limit), judge)
