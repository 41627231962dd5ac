"""The judges, on results made by hand, and the readers, on files of a few rows."""

from __future__ import annotations

import gzip
import json

import pytest

from ctxcomp.errors import InputError
from ctxcomp.types import CompressedText, Passage, Span, Stats
from ctxcomp_eval.data import Example, first, sample
from ctxcomp_eval.tasks import TASKS, Task, task
from ctxcomp_eval.tasks.chunks import chunked
from ctxcomp_eval.tasks.measures import Kept
from ctxcomp_eval.tasks.tatqa import markdown, operands
from ctxcomp_eval.tasks.worked_examples import pieces


def result_of(passages, kept, text=None):
    """A result that keeps the stretches ``kept``; generated text if that is None."""
    left = [" ".join(p.text[a:b] for number, a, b in sorted(kept or ()) if number == i) for i, p in enumerate(passages)]
    return CompressedText(
        text="\n\n".join(filter(None, left)) if text is None else text,
        spans=None if kept is None else tuple(Span(*stretch) for stretch in sorted(kept)),
        passages=tuple(passages),
        passage_texts=tuple(left),
        stats=Stats(100, 10, 0.0, "cl100k_base", "by_hand"),
    )


def judged(name, example, kept, text=None):
    measures = dict(task(name).judge(example, result_of(example.passages, kept, text)))
    assert set(measures) <= set(task(name).metrics)
    return measures


def find(example, *texts):
    """Where texts stand in the passages."""
    found = [(i, p.text.find(t), p.text.find(t) + len(t)) for t in texts for i, p in enumerate(example.passages)]
    return {(i, a, b) for i, a, b in found if a >= 0}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Writes rows as a set of the data folder."""
    (tmp_path / "eval").mkdir()
    monkeypatch.setenv("CTXCOMP_DATA", str(tmp_path))

    def write(name, *rows):
        with gzip.open(tmp_path / "eval" / f"{name}.jsonl.gz", "wt", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in rows)

    return write


@pytest.mark.parametrize("name", TASKS)
def test_every_name_leads_to_a_task_of_that_name(name):
    found = task(name)
    assert isinstance(found, Task)
    assert found.name == name
    assert found.metrics


def test_unknown_tasks_are_told_the_nearest_and_files():
    with pytest.raises(InputError, match=r"did you mean 'hotpot10'\?, or give a .jsonl or .csv file"):
        task("hotpot")


def test_a_users_file_is_a_task(tmp_path):
    rows = [{"question": "Who?", "answer": a, "context": "Ann sings."} for a in ("Ann", "Bob")]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = task(str(path))
    one, other = found.examples(None)
    assert found.examples(1) == [one]
    assert found.judge(one, result_of(one.passages, [(0, 0, 3)])) == {"retention": 1.0}
    assert found.judge(one, result_of(one.passages, [(0, 4, 10)])) == {"retention": 0.0}
    assert found.judge(other, result_of(other.passages, [(0, 0, 10)])) == {}, "the full context does not have it"


def test_samples_are_fixed_nested_spread_and_in_order():
    examples = [Example(f"doc{i // 10}-{i % 10}", "?", (), ()) for i in range(200)]
    small, large = sample(examples, 20), sample(examples, 50)
    assert (len(small), len(large)) == (20, 50)
    assert {e.id for e in small} < {e.id for e in large}
    assert [examples.index(e) for e in large] == sorted(examples.index(e) for e in large)
    assert len({e.id.split("-")[0] for e in small}) > 8
    assert sample(examples, None) == sample(examples, 999) == examples
    assert sample(examples, 20) == small
    for take in (first, sample):
        with pytest.raises(InputError, match="limit must be 1 or more"):
            take(examples, 0)


def test_shares_count_visible_characters():
    passages = (Passage("ab cd\u200b ef"), Passage("gh"))
    kept = Kept(result_of(passages, [(0, 0, 2), (0, 3, 4)]))
    assert kept.share((0, 0, 5)) == 0.75
    assert kept.share((0, 2, 3)) == 1.0, "white space alone"
    assert kept.whole((0, 0, 4))
    assert not kept.whole((0, 0, 5))
    assert kept.share((1, 0, 2)) == 0.0
    assert kept.any(0)
    assert not kept.any(1)
    overlap = kept.overlap([(0, 3, 9), (0, 3, 5), (1, 0, 2)])
    assert (overlap.evidence, overlap.kept, overlap.both) == (6, 3, 1)
    assert (Kept(result_of(passages, [])).overlap([]).recall, overlap.precision) == (None, pytest.approx(1 / 3))


def test_nq20():
    passages = (Passage("Rome fell in 476."), Passage("Other words."), Passage("More words."))
    example = Example("q", "When did Rome fall?", ("476",), passages, gold=frozenset({0}))
    assert judged("nq20", example, [(0, 13, 17)]) == {"retention": 1, "gold_kept": 1, "distractors_removed": 1}
    assert judged("nq20", example, [(0, 0, 9), (2, 0, 4)]) == {
        "retention": 0,
        "gold_kept": 1,
        "distractors_removed": 0.5,
    }
    assert judged("nq20", example, []) == {"retention": 0, "gold_kept": 0, "distractors_removed": 1}


def hotpot(answer):
    passages = (
        Passage("Ann sings. She was born in Oslo."),
        Passage("Noise."),
        Passage(" Oslo is in Norway. It rains."),
    )
    support = ((0, 10, 32), (2, 0, 19))  # with the space in front, as the set has it
    return Example("q", "?", (answer,), passages, gold=frozenset({0, 2}), support=support)


def test_hotpot_needs_both_facts_in_full():
    example = hotpot("Norway")
    both = [(0, 11, 32), (2, 1, 19)]
    assert judged("hotpot10", example, both) == {"support": 1, "support_recall": 1, "retention": 1}
    one = judged("hotpot10", example, both[:1])
    assert one == {"support": 0, "support_recall": 0.5, "retention": 0}
    nearly = judged("hotpot10", example, [(0, 11, 32), (2, 1, 18)])
    assert nearly["support"] == 0
    assert 0.9 < nearly["support_recall"] < 1
    assert judged("hotpot10", example, None, "in Norway") == {"retention": 1}


@pytest.mark.parametrize("answer", ["yes", "No", "no."])
def test_hotpot_yes_and_no_are_no_answers_to_be_found(answer):
    assert "retention" not in judged("hotpot10", hotpot(answer), [(0, 11, 32)])


def test_chunks_are_whole_units_and_hold_all_evidence():
    text = "one two.  three four. five"
    document = chunked("d", text, [(0, 8), (10, 21), (22, 26)], size=16)
    assert [p.text for p in document.passages] == ["one two.", "three four. five"]
    assert [p.id for p in document.passages] == ["d:0", "d:1"]
    assert document.evidence([(4, 15), (0, 3)]) == ((0, 4, 8), (1, 0, 5), (0, 0, 3))
    assert [p.text for p in chunked("d", text, [(0, 26)], size=5).passages] == [text]


def test_qmsum_marks_the_relevant_turns(files):
    turns = ["A: hello .", "B: " + "x " * 600, "A: the price is ten .", "B: good .", "A: bye ."]
    query = {"question": "What is the price?", "answer": "Ten. ", "relevant": [[2, 3], [0, 0]]}
    files("qmsum_test", {"id": "m", "turns": turns, "queries": [query]})
    (example,) = task("qmsum_test").examples(None)
    assert [p.text for p in example.passages] == [turns[0], turns[1], "\n".join(turns[2:])]
    assert {example.passages[p].text[a:b] for p, a, b in example.support} == {turns[0], "\n".join(turns[2:4])}
    assert judged("qmsum_test", example, example.support) == {"relevant": 1, "precision": 1}
    half = judged("qmsum_test", example, find(example, turns[0], turns[4]))
    assert half["relevant"] == pytest.approx(8 / (8 + 16 + 7))
    assert half["precision"] == pytest.approx(8 / (8 + 6))
    assert judged("qmsum_test", example, []) == {"relevant": 0}
    assert judged("qmsum_test", example, None) == {}


def test_cuad_marks_the_clauses(files):
    text = "This is the Agreement. " + "It says much of little. " * 60 + "New York law governs. Ann may end it."
    law, end = text.index("New York"), text.index("Ann may")
    qa = [
        {"category": "Law", "question": "Which law?", "clauses": ["New York law governs."], "spans": [[law, end - 1]]},
        {"category": "Rofr", "question": "", "clauses": ["c"], "spans": [[0, 22], [end, len(text)]]},
    ]
    files("cuad_test", {"id": "c", "text": text, "qa": qa})
    one, other = task("cuad_test").examples(None)
    assert len(one.passages) == 2
    assert all(len(p.text) <= 1000 for p in one.passages)
    assert (one.kind, one.question, other.question) == ("Law", "Which law?", "Rofr")
    assert judged("cuad_test", one, one.support) == {"clauses": 1, "whole_clauses": 1}
    assert judged("cuad_test", other, one.support) == {"clauses": 0, "whole_clauses": 0}
    part = judged("cuad_test", other, [(0, 0, 4), *other.support[1:]])
    assert part["whole_clauses"] == 0.5
    assert part["clauses"] == pytest.approx((4 + 12) / (19 + 12))
    assert judged("cuad_test", one, None) == {}


def tatqa_row():
    def question(uid, kind, answer, derivation="", scale=""):
        return {"uid": uid, "question": f"{uid}?", "answer": answer, "derivation": derivation, "answer_type": kind} | {
            "scale": scale
        }

    questions = [
        question("span", "span", ["$1,452.4"]),
        question("list", "multi-span", ["2019", "2018"]),
        question("sum", "arithmetic", -12.6, "(44.1-56.7)/2*100", "million"),
        question("count", "count", "2"),
        question("elsewhere", "span", ["Mars"]),
    ]
    table = [["", "2019", "2018"], ["Fixed | all", "$  1,452.4", "3"], ["Other", "44.1", "56.7"]]
    return {
        "table": {"uid": "t", "table": table},
        "paragraphs": [{"uid": "p", "order": 1, "text": "In millions, 2 kinds."}],
        "questions": questions,
    }


def test_tatqa_counts_what_is_needed(files):
    files("tatqa_dev", tatqa_row())
    examples = {example.id: example for example in task("tatqa_dev").examples(None)}
    table = examples["span"].passages[0].text
    assert table.splitlines()[:3] == ["|  | 2019 | 2018 |", "|---|---|---|", "| Fixed \\| all | $ 1,452.4 | 3 |"]
    everything = [(0, 0, len(table)), (1, 0, 20)]
    found = {id: judged("tatqa_dev", example, everything) for id, example in examples.items()}
    assert found["span"] == found["list"] == {"retention": 1}
    assert found["sum"] == {"operands": 1}
    assert found["count"] == found["elsewhere"] == {}
    last = [(0, table.index("| Other"), len(table))]
    assert judged("tatqa_dev", examples["sum"], last) == {"operands": 1}
    assert judged("tatqa_dev", examples["span"], last) == {"retention": 0}
    assert judged("tatqa_dev", examples["list"], [(0, 0, 10)]) == {"retention": 0}, "one of two years"
    assert judged("tatqa_dev", examples["sum"], [(0, 0, len(table) - 9)]) == {"operands": 0}
    assert examples["sum"].answers == ("-12.6", "-12.6 million")
    assert examples["list"].answers == ("2019, 2018",)


def test_tables_and_calculations():
    assert markdown([["a\nb", "c"], ["1", ""]]) == "| a b | c |\n|---|---|\n| 1 |  |"
    assert operands("(1,452.4 - 44.1)/44.1*100") == ("1,452.4", "44.1")
    assert operands("(166+178)/2 + .55") == ("166", "178", ".55")


def test_sentcomp_zero_means_kept(files):
    tokens = ["Ann", "was", "seen", "today", "in", "Oslo", "."]
    files("sentcomp_test", {"tokens": tokens, "keep": [0, 0, 0, 1, 0, 0, 0]})
    (example,) = task("sentcomp_test").examples(None)
    assert (example.question, example.passages[0].text) == ("", "Ann was seen today in Oslo .")
    assert [example.passages[0].text[a:b] for _, a, b in example.support] == ["Ann", "was", "seen", "in", "Oslo", "."]
    assert judged("sentcomp_test", example, example.support) == {"f1": 1, "precision": 1, "recall": 1}
    part = judged("sentcomp_test", example, [(0, 0, 7), (0, 13, 18), (0, 22, 24)])  # "Ann was", "today", "Os"
    assert part == {
        "f1": pytest.approx(2 * 2 / (3 + 6)),
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(1 / 3),
    }
    assert judged("sentcomp_test", example, []) == {"f1": 0, "recall": 0}


WORKED = """\
Question: Two hats at $3, and a 10-minute break?
Let's think step by step
Two hats are 2 * 3 = 6
So we have six, 9 - 3.
The answer is 6"""


def test_parts_of_a_worked_example():
    found = pieces(WORKED)
    assert [WORKED[a:b] for a, b in found.marks] == ["Question:", "Let's think step by step"]
    assert [WORKED[a:b] for a, b in found.steps] == ["Two hats are 2 * 3 = 6", "So we have six, 9 - 3."]
    assert [WORKED[a:b] for a, b in found.signs] == ["2", "*", "3", "=", "6", "9", "-", "3"]
    assert WORKED[slice(*found.answer)] == "The answer is 6"
    assert pieces("Sort a list of words.") is None
    bbh = "Q: not True is\nA: Let's think step by step.\nnot True = False. So the answer is False."
    assert bbh[slice(*pieces(bbh).answer)] == "the answer is False"
    assert [bbh[a:b] for a, b in pieces(bbh).steps] == ["not True = False. "]


def worked(kept):
    text = WORKED
    passages = (Passage("Count hats."), Passage(text), Passage(text.replace("hats", "cats")))
    example = Example("gsm8k-1", "Three hats?", ("9",), passages)
    return judged("gsm8k", example, [(p, *span) for p, spans in kept.items() for span in spans])


def without(*words):
    """The worked example without some of its words."""
    spans, at = [], 0
    for word in words:
        start = WORKED.index(word, at)
        spans.append((at, start))
        at = start + len(word)
    return [(a, b) for a, b in [*spans, (at, len(WORKED))] if a < b]


def test_structure_of_worked_examples():
    whole = [(0, len(WORKED))]
    assert worked({1: whole}) == {"structure": 1, "examples": 0.5, "answers_kept": 1, "numbers_kept": 1}
    assert worked({0: [(0, 5)], 1: whole, 2: whole}) == {
        "structure": 1,
        "examples": 1,
        "answers_kept": 1,
        "numbers_kept": 1,
    }
    assert worked({1: whole, 2: [(0, 20)]}) == {
        "structure": 0.5,
        "examples": 0.5,
        "answers_kept": 0.5,
        "numbers_kept": 0.5,
    }
    assert worked({}) == {"structure": 0, "examples": 0}
    assert worked({1: without(" Two hats at $3", "So we have six, ")})["structure"] == 1, "words may go"


@pytest.mark.parametrize("lost", ["Question:", "step by", "So we have six, 9 - 3.", "*", "-", "answer is", "is 6"])
def test_what_breaks_a_worked_example(lost):
    at = WORKED.rindex(lost)
    kept = [(a, b) for a, b in [(0, at), (at + len(lost), len(WORKED))] if a < b]
    found = worked({1: kept})
    if lost == "-":  # the last one stands in the reasoning, the one of "10-minute" is no sign
        assert found["numbers_kept"] == 7 / 8
    assert found["structure"] == 0


def test_gsm8k_and_bbh_prompts(files, tmp_path):
    (tmp_path / "eval" / "gsm8k_cot_prompt.txt").write_text(f"{WORKED}\n\n{WORKED}\n", encoding="utf-8")
    files("gsm8k_test", {"question": "Q?", "answer": "3*6=<<3*6=18>>18.\n#### 1,018"})
    (example,) = task("gsm8k").examples(None)
    assert [p.text for p in example.passages] == [WORKED, WORKED]
    assert example.answers == ("1,018",)
    prompt = "DATA canary\n-----\nCount.\n\nMore.\n\nQ: 1?\nA: Let's think step by step.\n1. So the answer is 1."
    files("bbh", {"task": "t", "cot_prompt": prompt, "examples": [{"input": "2?", "target": "2"}]})
    (example,) = task("bbh").examples(None)
    assert [p.text.partition("\n")[0] for p in example.passages] == ["Count.", "Q: 1?"]
    assert (example.kind, example.question, example.answers) == ("t", "2?", ("2",))
    with pytest.raises(InputError, match="limit must be"):
        task("gsm8k").examples(0)
