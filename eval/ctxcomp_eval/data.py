"""Questions with their passages: the evaluation sets, the dev splits of training data, and users' own files."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from ctxcomp.errors import InputError
from ctxcomp.types import Passage

FILE_SUFFIXES = (".jsonl", ".csv")
"""What users' own files may be."""
DEV_PERCENT = {"span_dev": 5, "hotpot_dev": 33}
"""Share of the training rows that each dev split takes; nothing may be trained on these rows."""


Evidence: TypeAlias = tuple[int, int, int]
"""A stretch of a passage: its index, first character and the one after the last."""


@dataclass(frozen=True, slots=True)
class Example:
    """One question with what was retrieved for it.

    Parameters
    ----------
    id: unique within its set.
    question: what is asked.
    answers: accepted answers, any one of them counts; empty where nothing is asked.
    passages: what a compressor is given, in the order of the set.
    gold: indices of the passages that hold the answer; empty where the set does not say.
    support: labelled evidence as (passage, start, end) in characters: sentences in HotpotQA, clauses in CUAD, turns
        in QMSum, the words to keep in sentence compression, the answer itself in SQuAD-like sets, nothing in nq20
        and users' files.
    kind: what sort of question it is, where the set says.
    needed: pieces that must all remain to answer, where finding one of ``answers`` is not what counts: the parts of a
        list, the numbers of a calculation.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    passages: tuple[Passage, ...]
    gold: frozenset[int] = frozenset()
    support: tuple[Evidence, ...] = ()
    kind: str = ""
    needed: tuple[str, ...] = ()

    @property
    def context(self) -> str:
        """All passages as one text: what "the answer is in the full context" is judged on."""
        return "\n\n".join(passage.text for passage in self.passages)


def data_dir() -> Path:
    """The folder of the data sets: ``CTXCOMP_DATA``, or ``../shared/data`` beside the repository.

    Raises
    ------
    InputError: neither is there.
    """
    given = os.environ.get("CTXCOMP_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[3] / "shared" / "data"
    if not folder.is_dir():
        raise InputError(f"no data in {folder}: set CTXCOMP_DATA to the folder that holds eval/, qa/ and compression/")
    return folder


def bucket(key: str) -> int:
    """A number in [0, 100) that depends on ``key`` alone: what dev splits are cut by."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % 100


def in_dev(name: str, row: dict[str, Any]) -> bool:
    """Whether a row of qa/span_train or qa/hotpot_train belongs to the dev split ``name``, not to training.

    span_dev is cut by context, not by question: many questions share a context, and one whose context was
    trained on would measure memory.
    """
    return bucket(row["context"] if name == "span_dev" else row["id"]) < DEV_PERCENT[name]


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file, gzipped if its name ends in .gz.

    Raises
    ------
    InputError: the file is not there, or a line is not a JSON object.
    """
    if not path.is_file():
        raise InputError(f"no file {path}")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path.name} line {number}: not JSON ({error.msg}); one object per line") from error
            if not isinstance(row, dict):
                raise InputError(f"{path.name} line {number}: expected a JSON object, got {type(row).__name__}")
            yield {**row, "_line": number}


def _passages(row: dict[str, Any]) -> Example:
    passages = tuple(
        Passage(p["text"], id=p["id"], title=p.get("title"), score=p.get("score")) for p in row["passages"]
    )
    gold = frozenset(i for i, p in enumerate(row["passages"]) if p.get("gold"))
    support = tuple((i, *span) for i, p in enumerate(row["passages"]) for span in p.get("support", ()))
    return Example(row["id"], row["question"], tuple(row["answers"]), passages, gold, support, row.get("type", ""))


def _one_passage(id: str, question: str, answers: Sequence[str], text: str, title: str | None, start: int) -> Example:
    support = ((0, start, start + len(answers[0])),) if start >= 0 else ()
    passages = (Passage(text, id=title or id, title=title),)
    return Example(id, question, tuple(dict.fromkeys(answers)), passages, frozenset({0}), support)


def _squad(folder: Path) -> Iterator[Example]:
    for row in read_rows(folder / "eval" / "squad_dev.jsonl.gz"):
        text, title = row["context"], row["title"]
        for qa in row["qas"]:
            answers = qa["answers"]
            yield _one_passage(qa["id"], qa["question"], answers, text, title, text.find(answers[0]))


def _span_dev(folder: Path) -> Iterator[Example]:
    for row in read_rows(folder / "qa" / "span_train.jsonl.gz"):
        if in_dev("span_dev", row):
            answers, start = [a["text"] for a in row["answers"]], row["answers"][0]["start"]
            yield _one_passage(row["id"], row["question"], answers, row["context"], None, start)


def _hotpot_dev(folder: Path) -> Iterator[Example]:
    rows = read_rows(folder / "qa" / "hotpot_train.jsonl.gz")
    return (_passages(row) for row in rows if in_dev("hotpot_dev", row))


def _eval_set(name: str) -> Callable[[Path], Iterator[Example]]:
    return lambda folder: map(_passages, read_rows(folder / "eval" / f"{name}.jsonl.gz"))


SETS: dict[str, Callable[[Path], Iterator[Example]]] = {
    "nq20": _eval_set("nq20"),
    "hotpot10": _eval_set("hotpot10"),
    "squad_dev": _squad,
    "hotpot_dev": _hotpot_dev,
    "span_dev": _span_dev,
}


def load(name: str, limit: int | None = None) -> list[Example]:
    """Read a set by name, or a user's file.

    Parameters
    ----------
    name: "nq20", "hotpot10", "squad_dev" (report only); "hotpot_dev", "span_dev" (tune on these); or the
        path of a ``.jsonl`` or ``.csv`` file with question, answers (or answer) and passages (or context).
    limit: the first so many questions, >= 1; None for all.

    Raises
    ------
    InputError: no such set or file, or a row that cannot be used; the message has its line number.
    """
    if name in SETS:
        return first(SETS[name](data_dir()), limit)
    path = Path(name)
    if path.suffix not in FILE_SUFFIXES:
        raise InputError(f"no data set {name!r}: known are {', '.join(SETS)}, or give a .jsonl or .csv file")
    examples = first((_user_example(path, row) for row in _user_rows(path)), limit)
    if not examples:
        raise InputError(f"{path.name} has no questions in it")
    return examples


def first(examples: Iterable[Example], limit: int | None) -> list[Example]:
    """The first so many examples, or all for None.

    Raises
    ------
    InputError: the limit is less than 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit must be 1 or more, got {limit}: leave it out for all questions")
    return list(islice(examples, limit))


def sample(examples: Iterable[Example], limit: int | None) -> list[Example]:
    """All examples, or a fixed random sample of them: the same on every machine, and part of every larger one.

    For sets whose neighbours share a document: the first so many would all be about the same few. The order stays that
    of the set, so that a batch holds one document's questions and encoders read it once.

    Parameters
    ----------
    limit: how many at most, >= 1; None for all.

    Raises
    ------
    InputError: the limit is less than 1.
    """
    everything = list(examples)
    order = sorted(everything, key=lambda example: hashlib.sha256(example.id.encode()).digest())
    chosen = {example.id for example in first(order, limit)}
    return [example for example in everything if example.id in chosen]


def _user_rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".jsonl":
        yield from read_rows(path)
        return
    if not path.is_file():
        raise InputError(f"no file {path}")
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, restkey="_extra")
        for row in reader:
            number = reader.line_num
            if "_extra" in row:
                raise InputError(f"{path.name} line {number}: more cells than columns; quote cells that hold commas")
            yield {key: _cell(value) for key, value in row.items() if value} | {"_line": number}


def _cell(value: str) -> Any:
    """A CSV cell: a list where it is written as a JSON list of texts or objects, else the text itself."""
    if value.lstrip().startswith("["):
        try:
            parsed = json.loads(value)
        except json.JSONDecodeError:
            return value
        if isinstance(parsed, list) and all(isinstance(item, (str, dict)) for item in parsed):
            return parsed
    return value


def _user_example(path: Path, row: dict[str, Any]) -> Example:
    where = f"{path.name} line {row['_line']}"
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{where}: 'question' must be a text that is not empty, got {question!r}")
    answers = _listed(row, ("answers", "answer"), where)
    if not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise InputError(f"{where}: every answer must be a text that is not empty, got {answers!r}")
    passages = tuple(_user_passage(item, where) for item in _listed(row, ("passages", "context"), where))
    return Example(str(row.get("id", f"line-{row['_line']}")), question, tuple(answers), passages)


def _listed(row: dict[str, Any], names: tuple[str, str], where: str) -> list[Any]:
    value = next((row[name] for name in names if row.get(name)), None)
    if value is None:
        raise InputError(f"{where}: needs {names[0]!r} or {names[1]!r}; the columns are {sorted(set(row) - {'_line'})}")
    if isinstance(value, (str, dict)):
        return [value]
    if not isinstance(value, list):
        raise InputError(f"{where}: {names[0]!r} must be a text or a list of them, got {type(value).__name__}")
    return value


def _user_passage(item: Any, where: str) -> Passage:
    if isinstance(item, str):
        return Passage(item)
    if not isinstance(item, dict) or not isinstance(item.get("text"), str):
        raise InputError(f"{where}: a passage is a text or an object with 'text', got {item!r}")
    known = {key: item[key] for key in ("id", "title", "score") if item.get(key) is not None}
    return Passage(item["text"], **({**known, "id": str(known["id"])} if "id" in known else known))
