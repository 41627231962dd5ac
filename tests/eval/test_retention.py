import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxcomp.errors import InputError
from ctxcomp_eval.retention import (
    Outcome,
    answerable,
    bootstrap,
    normalise,
    paired_difference,
    retained,
    summarise,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Battle of\nHastings!", "battle of hastings"),
        ("An apple a day", "apple day"),
        ("$1,000.50", "100050"),
        ("twenty-four", "twentyfour"),
        ("Theatre", "theatre"),
        ("the a an", ""),
        ("Röntgen", "röntgen"),
        ("A-team", "ateam"),
    ],
)
def test_normalisation_is_squads(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("answers", "text", "expected"),
    [
        (["Wilhelm Röntgen"], "won by wilhelm RÖNTGEN, in 1901", True),
        (["the Beatles"], "Beatles records", True),
        (["2"], "in 1923 and 12", False),
        (["cat"], "concatenate", False),
        (["cat", "dog"], "a dog", True),
        (["Battle of Hastings"], "Battle Hastings", False),
        (["Battle of Hastings"], "Battle ... of the Hastings", True),
        (["the", "?"], "the answer is the?", False),
        ([""], "anything", False),
        ([], "anything", False),
        (["x"], "", False),
    ],
)
def test_retained_on_word_boundaries(answers, text, expected):
    assert retained(answers, text) is expected


words = st.lists(st.text("abcXYZ09é", min_size=1, max_size=5), min_size=1, max_size=8)


@given(words, words, words)
def test_an_answer_is_found_wherever_it_stands(before, answer, after):
    text = " ".join([*before, *answer, *after])
    expected = bool(normalise(" ".join(answer)))
    assert retained([" ".join(answer)], text) is expected


@given(st.text(max_size=60))
def test_normalise_is_stable(text):
    once = normalise(text)
    assert "  " not in once
    assert once == once.strip()
    assert normalise(once) == once


def test_bootstrap_agrees_with_drawing_indices():
    values = (np.random.default_rng(1).random(400) < 0.3).astype(float)
    drawn = values[np.random.default_rng(2).integers(0, 400, (10_000, 400))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    found = bootstrap(values)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(low, abs=0.006)
    assert found.high == pytest.approx(high, abs=0.006)


def test_bootstrap_of_many_distinct_values():
    values = np.random.default_rng(3).normal(5, 2, 1000)
    found = bootstrap(values)
    half = 1.96 * values.std() / 1000**0.5
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)


def test_bootstrap_is_seeded():
    values = [0, 1, 1, 0, 1, 0, 0, 0, 1, 1]
    assert bootstrap(values, seed=4) == bootstrap(values, seed=4)
    assert bootstrap(values, seed=4, resamples=11) != bootstrap(values, seed=5, resamples=11)
    assert bootstrap([1, 1, 1]).low == 1.0


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_bootstrap_refuses_what_has_no_mean(values):
    with pytest.raises(InputError, match="at least one value"):
        bootstrap(values)


def test_pairing_sees_what_separate_intervals_do_not():
    hard = np.random.default_rng(6).random(500) < 0.5
    first, second = hard.astype(float), hard.astype(float)
    first[np.flatnonzero(~hard)[:25]] = 1.0  # better on 25 questions, the same on the others
    assert bootstrap(first).low < bootstrap(second).high
    assert paired_difference(first, second).low > 0
    assert paired_difference(second, first).mean == pytest.approx(-0.05)


def test_pairing_needs_the_same_questions():
    with pytest.raises(InputError, match="same questions"):
        paired_difference([1, 0], [1])


def outcome(**changes):
    given = {"id": "q", "answerable": True, "retained": True, "tokens_in": 100, "tokens_out": 20, "seconds": 0.1}
    return Outcome(**{**given, "counter": "cl100k_base", **changes})


def test_only_answerable_questions_count():
    outcomes = [outcome(), outcome(retained=False), outcome(answerable=False), outcome(answerable=False)]
    assert answerable(outcomes).tolist() == [1.0, 0.0]
    run = summarise("bm25", "{}", 0.2, outcomes)
    assert (run.retention, run.n) == (0.5, 2)
    assert run.low <= run.retention <= run.high


def test_summary_of_tokens_time_and_fallbacks():
    outcomes = [
        outcome(seconds=0.1),
        outcome(seconds=0.2, tokens_out=40, fallback="out of memory"),
        outcome(seconds=9.0, tokens_in=0, tokens_out=0, counter="o200k_base"),
    ]
    run = summarise("bm25", "{}", 0.2, outcomes)
    assert run.keep_spent == pytest.approx((0.2 + 0.4 + 1.0) / 3)
    assert run.tokens_out == pytest.approx(20)
    assert run.seconds_p50 == 0.2
    assert run.fallbacks == 1
    assert run.counter == "cl100k_base+o200k_base"


def test_nothing_answerable_is_an_error_not_a_zero():
    with pytest.raises(InputError, match="nothing to measure"):
        summarise("bm25", "{}", 0.2, [outcome(answerable=False)])


@pytest.fixture
def bench():
    from ctxcomp_eval.bench import retention

    return retention


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [
        {
            "question": f"Where does person {i} live?",
            "answer": f"city{i}",
            "passages": [f"Person {i} lives in city{i}. " + "Other words follow here. " * 6, "Nothing of note. " * 5],
        }
        for i in range(5)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def arguments(path, tmp_path, methods="truncate,bm25", keep="0.25,1.0"):
    given = {"data": path, "methods": methods, "keep": keep, "runs": tmp_path / "runs", "out": tmp_path / "out"}
    return [text for key, value in given.items() for text in (f"--{key}", str(value))]


def test_benchmark_end_to_end(bench, questions, tmp_path, capsys):
    bench.main(arguments(questions, tmp_path))
    lines = (tmp_path / "out" / "retention_mine.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 4
    assert lines[0].startswith("method,settings,keep_asked,keep_spent,tokens_out,retention,low,high,n,seconds_p50")
    row = dict(zip(lines[0].split(","), lines[1].split(","), strict=False))
    assert row["method"] == "bm25"
    assert 0 < float(row["keep_spent"]) <= 0.25
    assert row["n"] == "5"
    printed = capsys.readouterr().out
    assert printed.count("| bm25 |") == 2
    assert "1.000 [1.000, 1.000]" in printed


def test_benchmark_resumes_after_a_torn_line(bench, questions, tmp_path, capsys):
    bench.main(arguments(questions, tmp_path, "truncate", "0.5"))
    (path,) = (tmp_path / "runs" / "retention_mine").glob("truncate_*_keep0.5_*.jsonl")
    whole = path.read_text(encoding="utf-8")
    rows = whole.splitlines(keepends=True)
    marked = rows[0].replace('"seconds": ', '"seconds": 7')  # would not survive a second compression
    path.write_text(marked + rows[1] + rows[2][:30], encoding="utf-8")
    bench.main(arguments(questions, tmp_path, "truncate", "0.5"))
    resumed = path.read_text(encoding="utf-8").splitlines(keepends=True)
    assert resumed[0] == marked
    assert [json.loads(row)["id"] for row in resumed] == [json.loads(row)["id"] for row in rows]


def test_results_of_other_runs_stay_in_the_file(bench, questions, tmp_path):
    bench.main(arguments(questions, tmp_path, "truncate", "0.5"))
    bench.main(arguments(questions, tmp_path, "bm25", "0.5"))
    bench.main(arguments(questions, tmp_path, "truncate", "0.5"))
    lines = (tmp_path / "out" / "retention_mine.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == ["bm25", "truncate"]


def test_method_settings(bench):
    method = bench.Method.parse("embedding_select?floor=0.5&unit=sentence&merge=true")
    assert method.name == "embedding_select"
    assert method.fields == {"floor": 0.5, "unit": "sentence", "merge": True}
    assert bench.Method.parse(" bm25 ").settings == "{}"
