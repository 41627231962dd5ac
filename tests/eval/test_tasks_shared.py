"""The tasks on their real sets: what the files hold is what the judges expect."""

from __future__ import annotations

import pytest

from ctxcomp import Budget, load
from ctxcomp.errors import InputError
from ctxcomp.types import CompressedText, Span, Stats
from ctxcomp_eval.data import data_dir
from ctxcomp_eval.faithfulness import faithful
from ctxcomp_eval.tasks import TASKS, task
from ctxcomp_eval.tasks.worked_examples import pieces

BETTER_WITH_LESS = {"precision", "f1", "distractors_removed"}
SIZES = {"nq20": 1328, "hotpot10": 500, "qmsum_test": 244, "cuad_test": 603, "tatqa_dev": 1668, "sentcomp_test": 1000}


@pytest.fixture(autouse=True)
def data():
    try:
        return data_dir()
    except InputError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", TASKS)
def test_everything_kept_is_perfect_and_little_kept_is_not(name):
    chosen = task(name)
    examples = chosen.examples(12)
    assert len(examples) == 12
    random, seen, scores = load("random"), set(), []
    for example in examples:
        whole = random.compress(example.question, example.passages, Budget(keep=1.0))
        measures = chosen.judge(example, whole)
        assert {value for name, value in measures.items() if name not in BETTER_WITH_LESS} <= {1.0}
        assert measures.get("distractors_removed", 0.0) == 0.0
        seen |= set(measures)
        little = random.compress(example.question, example.passages, Budget(keep=0.1))
        assert faithful(little, random)
        scores += [value for name, value in chosen.judge(example, little).items() if name == chosen.metrics[0]]
    assert seen == set(chosen.metrics)
    assert sum(scores) / len(scores) < 0.6


@pytest.mark.parametrize("name", ["hotpot10", "qmsum_test", "cuad_test", "sentcomp_test"])
def test_the_evidence_alone_is_perfect(name):
    chosen = task(name)
    for example in chosen.examples(25):
        spans = tuple(Span(*stretch) for stretch in sorted(set(example.support)))
        stats = Stats(100, 10, 0.0, "cl100k_base", "oracle")
        empty = ("",) * len(example.passages)
        oracle = CompressedText(text="", spans=spans, passages=example.passages, passage_texts=empty, stats=stats)
        measures = {name: value for name, value in chosen.judge(example, oracle).items() if name != "retention"}
        assert measures
        assert set(measures.values()) == {1.0}


@pytest.mark.parametrize("name", SIZES)
def test_ids_are_unique_and_all_rows_are_there(name):
    examples = task(name).examples(None)
    assert len(examples) == SIZES[name]
    assert len({example.id for example in examples}) == len(examples)


@pytest.mark.parametrize(("name", "documents"), [("squad_dev", 20), ("qmsum_test", 15), ("cuad_test", 20), ("bbh", 15)])
def test_a_small_sample_is_about_many_documents(name, documents):
    assert len({example.passages[-1].id for example in task(name).examples(40)}) >= documents


def test_sentcomp_references_are_sentences_of_under_half_the_words():
    examples = task("sentcomp_test").examples(None)
    shares = [len(example.support) / len(example.passages[0].text.split(" ")) for example in examples]
    assert 0.4 < sum(shares) / len(shares) < 0.5
    first = examples[0]
    assert " ".join(first.passages[0].text[a:b] for _, a, b in first.support) == "Luis Suarez was spotted in London ."


def test_all_worked_examples_are_understood():
    gsm8k, bbh = task("gsm8k").examples(1), task("bbh").examples(None)
    assert [pieces(p.text) is not None for p in gsm8k[0].passages] == [True] * 8
    prompts = {example.kind: example.passages for example in bbh}
    assert len(prompts) == 27
    for passages in prompts.values():
        assert [pieces(p.text) is not None for p in passages] == [False, True, True, True]
        assert not any("BENCHMARK DATA" in p.text for p in passages)
        assert all(pieces(p.text).steps for p in passages[1:])


def test_most_tatqa_questions_count():
    chosen, counted = task("tatqa_dev"), {"retention": 0, "operands": 0}
    keep_all = load("truncate")
    for example in chosen.examples(300):
        for name in chosen.judge(example, keep_all.compress("", example.passages, Budget(keep=1.0))):
            counted[name] += 1
    assert counted["retention"] > 140
    assert counted["operands"] > 100
