"""cuad_test: what a lawyer looks for in a contract, clause by clause.

CUAD (Hendrycks et al. 2021, CC BY 4.0): 50 contracts of 600 to 335,000 characters in chunks of whole sentences of up
to 1,000 characters; the query is the description of a category, the evidence the clauses marked for it. Categories
without a clause are not in the file. ``limit`` samples all contracts and categories.

- ``clauses``: recall, the share of the marked characters that is kept.
- ``whole_clauses``: the share of the marked stretches that is kept in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ctxcomp.segment import segment
from ctxcomp.types import CompressedText
from ctxcomp_eval.data import Example, data_dir, read_rows, sample
from ctxcomp_eval.tasks import Task
from ctxcomp_eval.tasks.chunks import chunked
from ctxcomp_eval.tasks.measures import Kept


def judge(example: Example, result: CompressedText) -> Mapping[str, float]:
    """The measures above."""
    if result.spans is None or not example.support:
        return {}
    kept = Kept(result)
    whole = [kept.whole(clause) for clause in example.support]
    return {
        "clauses": kept.overlap(example.support).recall or 0.0,
        "whole_clauses": sum(whole) / len(whole),
    }


def _all() -> Iterator[Example]:
    for contract in read_rows(data_dir() / "eval" / "cuad_test.jsonl.gz"):
        units = segment(contract["text"], "sentence")
        sentences = list(zip(units.start.tolist(), units.end.tolist(), strict=True))
        document = chunked(contract["id"], contract["text"], sentences)
        for qa in contract["qa"]:
            yield Example(
                id=f"{contract['id']}-{qa['category']}",
                question=qa["question"] or qa["category"],  # one category has no description
                answers=tuple(qa["clauses"]),
                passages=document.passages,
                support=document.evidence(qa["spans"]),
                kind=qa["category"],
            )


TASK = Task("cuad_test", ("clauses", "whole_clauses"), lambda limit: sample(_all(), limit), judge)
