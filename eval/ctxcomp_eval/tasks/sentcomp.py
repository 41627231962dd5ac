"""sentcomp_test: news sentences shortened by deleting words, without a query.

Google's sentence compression data (Filippova and Altun 2013; published "AS IS", no licence named), whose deletions come
from headlines. The labels in the file are inverted: ``keep`` is 1 where the word was deleted, as the sentences that
the zeros make show ("Luis Suarez was spotted in London ."). A passage is the file's tokens with a space between.

References keep 44 % of the words on average, 24 to 68 % between the first and last tenth; a method that is told a keep
for all sentences cannot reach 1. Compare methods at the same keep, .4 for the references' own size, and with words as
units: methods that choose sentences have only one to choose from, and cut it short.

- ``f1``: harmonic mean of the next two, 0 where nothing that is kept is in the reference.
- ``precision``: of the words kept, the share that the reference keeps; counts where any word is kept.
- ``recall``: of the reference's words, the share kept.

A word is kept when all its characters are; punctuation marks are words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ctxcomp.types import CompressedText, Passage
from ctxcomp_eval.data import Example, data_dir, read_rows, sample
from ctxcomp_eval.tasks import Task
from ctxcomp_eval.tasks.measures import Kept


def judge(example: Example, result: CompressedText) -> Mapping[str, float]:
    """The measures above."""
    if result.spans is None:
        return {}
    kept = Kept(result)
    words = {(0, *match.span()) for match in re.finditer(r"[^ ]+", example.passages[0].text)}
    chosen = {word for word in words if kept.whole(word)}
    wanted = set(example.support)
    hits = len(chosen & wanted)
    measures = {"f1": 2 * hits / (len(chosen) + len(wanted)), "recall": hits / len(wanted)}
    return {**measures, "precision": hits / len(chosen)} if chosen else measures


def _all() -> Iterator[Example]:
    for row in read_rows(data_dir() / "eval" / "sentcomp_test.jsonl.gz"):
        wanted: list[tuple[int, int, int]] = []
        at = 0
        for token, deleted in zip(row["tokens"], row["keep"], strict=True):
            if not deleted:
                wanted.append((0, at, at + len(token)))
            at += len(token) + 1
        text = " ".join(row["tokens"])
        name = f"sentcomp-{row['_line']}"
        yield Example(name, "", (), (Passage(text, id=name),), support=tuple(wanted))


TASK = Task("sentcomp_test", ("f1", "precision", "recall"), lambda limit: sample(_all(), limit), judge)
