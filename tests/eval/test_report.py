import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from ctxcomp import Passage
from ctxcomp.errors import InputError
from ctxcomp_eval.data import Example
from ctxcomp_eval.examples import duels, rival
from ctxcomp_eval.plot import picture
from ctxcomp_eval.report import page
from ctxcomp_eval.runner import Outcome
from ctxcomp_eval.specs import Spec
from ctxcomp_eval.summary import read_results, summarise, write_results
from ctxcomp_eval.tables import difference_table, main_table, metric_names, notes

BM25, TRUNCATE, RANDOM = Spec("bm25", {}), Spec("truncate", {"side": "tail"}), Spec("random", {})
HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">&"\'`|\x00\x1b[31m\ud800'


def outcome(value, **changes):
    metrics = {} if value is None else {"retention": value}
    given = {"id": "q", "metrics": metrics, "tokens_in": 100, "tokens_out": 20, "seconds": 0.1, "counter": "o200k_base"}
    return Outcome(**{**given, **changes})


def outcomes(*values, **changes):
    return [outcome(value, **changes) for value in values]


def row(spec=BM25, keep=0.2, own=None, first=None, full=None):
    own = own or outcomes(1.0, 0.0, 1.0, 1.0)
    return summarise("towns", spec, keep, own, first or (BM25, own), full or [{} for _ in own])


def test_only_questions_that_count_are_averaged():
    found = row(own=outcomes(1.0, 0.0, None, None))
    assert (found.metrics["retention"].mean, found.metrics["retention"].n, found.questions) == (0.5, 2, 4)
    assert found.minus_first == {}


def test_differences_are_paired_over_the_questions_that_count_in_both():
    ours, theirs = outcomes(1.0, 1.0, None, 0.0, 1.0), outcomes(0.0, 1.0, 1.0, 0.0, None)
    difference = row(TRUNCATE, own=ours, first=(BM25, theirs)).minus_first["retention"]
    assert (difference.mean, difference.n) == (pytest.approx(1 / 3), 3)
    many = outcomes(*np.tile([0.0, 1.0], 200))
    better = [replace(o, metrics={"retention": 1.0}) if i < 30 else o for i, o in enumerate(many)]
    difference = row(TRUNCATE, own=better, first=(BM25, many)).minus_first["retention"]
    assert 0 < difference.low < difference.mean == 15 / 400 < difference.high


def test_the_loss_to_the_full_context_is_paired():
    own = [outcome(1.0, metrics={"retention": 1.0, "reader_f1": value}) for value in (0.5, 1.0, 0.0)]
    found = row(own=own, full=[{"reader_f1": 1.0}, {"reader_f1": 1.0}, {}])
    assert found.metrics["reader_f1_full"].mean == 1.0
    assert (found.minus_full["reader_f1"].mean, found.minus_full["reader_f1"].n) == (-0.25, 2)
    assert metric_names([found]) == ["retention", "reader_f1"]
    assert "reader_f1 on the full context: 1.000 [1.000, 1.000]." in notes([found])
    assert "reader_f1 − full" in main_table([found], "retention").titles


def test_cost_and_faults_are_counted():
    own = [
        outcome(1.0, seconds=0.1),
        outcome(0.0, seconds=0.2, tokens_out=40, fallback="out of memory", over_budget=True, faithful=None),
        outcome(1.0, seconds=9.0, tokens_in=0, tokens_out=0, counter="minilm", faithful=False),
    ]
    found = row(own=own)
    assert found.keep_spent == pytest.approx((0.2 + 0.4 + 1.0) / 3)
    assert (found.tokens_out, found.seconds_p50, found.counter) == (20, 0.2, "minilm+o200k_base")
    assert (found.fallbacks, found.over_budget, found.checked, found.unfaithful) == (1, 1, 2, 1)
    said = " ".join(notes([found, row()]))
    for text in (
        "different tokenizers: minilm+o200k_base, o200k_base",
        "1 of 7 results are fallbacks",
        "1 of 7 results hold",
    ):
        assert text in said


def test_the_table_says_where_a_measure_counts_fewer_questions():
    own = [outcome(1.0, metrics={"second": 0.5, "retention": 1.0}), outcome(0.0)]
    table = main_table([summarise("t", BM25, 0.2, own, (BM25, own), [{}, {}], ["retention", "second"])], "retention")
    cells = dict(zip(table.titles, table.cells[0], strict=True))
    assert cells["retention [95 %]"] == "0.500 [0.000, 1.000]"
    assert cells["second [95 %]"] == "0.500 [0.500, 0.500] n=1"
    assert (cells["n"], list(cells)[4]) == ("2", "retention [95 %]")


def test_the_table_survives_any_setting():
    table = main_table([row(Spec("bm25", {"separator": "a | b\n## c"}))], "retention")
    lines = table.markdown().splitlines()
    assert len(lines) == 3
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "| 0.750 [0.250, 1.000] |" in lines[2]


def test_differences_say_whether_they_exclude_nothing():
    first = (BM25, outcomes(*[0.0] * 30))
    rows = [row(TRUNCATE, own=outcomes(*values), first=first) for values in ([1.0] * 30, [0.0] * 30)]
    table = difference_table(rows)
    assert [cells[-1] for cells in table.cells] == ["better", "open"]
    assert table.cells[0][2] == "retention − bm25"


def test_results_replace_their_own_lines_and_leave_the_others(tmp_path):
    path = tmp_path / "out" / "towns.jsonl"
    write_results(path, [row(TRUNCATE), row(keep=0.5)])
    write_results(path, [row(own=outcomes(0.0, 0.0), keep=0.5), row()])
    found = read_results(path)
    assert [(r["method"], r["keep"], r["metrics"]["retention"]["n"]) for r in found] == [
        ("bm25", 0.2, 4), ("bm25", 0.5, 2), ("truncate", 0.2, 4),
    ]  # fmt: skip
    assert found[2]["settings"] == {"side": "tail"}
    assert {"commit", "versions", "device", "date", "counter", "keep_spent", "unfaithful"} <= found[0].keys()
    before = path.read_bytes()
    write_results(path, [row()])
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["towns.jsonl"]


def test_a_file_that_is_no_results_file_is_not_overwritten(tmp_path):
    path = tmp_path / "towns.jsonl"
    for content in (b'{"question": "my own"}\n', b"notes\n", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"towns\.jsonl is no results file"):
            write_results(path, [row()])
        assert path.read_bytes() == content


SAMPLES = [
    Example(f"q{i}", f"Where is {i}?", (f"city{i}",), (Passage(f"Bla {i}. " * 9), Passage(f"It is in city{i}. No.")))
    for i in range(4)
]


def test_wins_and_losses_are_those_of_the_keep_that_tells_most():
    ours = (BM25, {0.2: outcomes(1.0, 0.0, 1.0, None), 0.5: outcomes(1.0, 1.0, 1.0, 1.0)})
    theirs = (TRUNCATE, {0.2: outcomes(0.0, 1.0, 0.0, 1.0), 0.5: outcomes(1.0, 1.0, 0.0, 1.0)})
    found = duels(SAMPLES, ours, theirs, "retention", 1)
    assert (found.keep, found.wins, found.losses) == (0.2, 2, 1)
    assert [(duel.example.id, duel.margin) for duel in found.shown] == [("q0", 1.0), ("q1", -1.0)]
    for duel in found.shown:
        assert duel.first.result.stats.method == "bm25"
        assert duel.second.result.stats.method == "truncate"
        assert duel.first.result.passages == duel.example.passages


def test_the_rival_is_the_second_method_or_the_best_baseline():
    bad, good = {0.2: outcomes(0.0, 0.0)}, {0.2: outcomes(1.0, None)}
    measured = [(BM25, good), (RANDOM, bad), (TRUNCATE, good)]
    assert rival(measured, 2, "retention")[0] == RANDOM
    assert rival(measured, 1, "retention")[0] == TRUNCATE
    assert rival(measured[:1], 1, "retention") is None


class Reading(HTMLParser):
    """What a browser would see: tags, attributes and the texts of marks."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.marks, self.open, self.words = set(), set(), [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= set(attributes)
        if tag == "mark":
            self.marks.append("")
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if "mark" in self.open:
            self.marks[-1] += data


def report(examples, label=BM25, png=b"png"):
    ours = (label, {0.2: outcomes(*[1.0] * len(examples), predictions={"reader": HOSTILE})})
    theirs = (TRUNCATE, {0.2: outcomes(*[0.0] * len(examples))})
    rows = [row(label, own=ours[1][0.2], first=(label, ours[1][0.2]))]
    rows.append(row(TRUNCATE, own=theirs[1][0.2], first=(label, ours[1][0.2])))
    return page("towns", rows, "retention", png, duels(examples, ours, theirs, "retention", 3))


def test_the_page_needs_nothing_else_and_is_well_formed():
    text = report(SAMPLES)
    reading = Reading(text)
    assert reading.open == []
    assert not reading.tags & {"script", "link", "iframe", "object", "form"}
    assert [value for name, value in reading.attributes if name in ("src", "href")] == ["data:image/png;base64,cG5n"]
    assert "url(" not in text
    assert "@import" not in text
    words = " ".join("".join(reading.words).split())
    assert "4 wins and 0 losses of bm25 against truncate?side=tail" in words
    assert "retention − bm25" in words


def test_kept_text_is_marked_and_dropped_text_is_there():
    example = SAMPLES[1]
    ours, theirs = (BM25, {0.2: outcomes(1.0)}), (TRUNCATE, {0.2: outcomes(0.0)})
    found = duels([example], ours, theirs, "retention", 1)
    reading = Reading(page("towns", [row()], "retention", b"", found))
    sides = [found.shown[0].first, found.shown[0].second]
    kept = [example.passages[s.passage].text[s.start : s.end] for side in sides for s in side.result.spans]
    assert kept
    assert reading.marks == ["kept", *kept]
    words = "".join(reading.words)
    assert all(words.count(passage.text) == 2 for passage in example.passages)


def test_nothing_in_the_data_becomes_markup():
    hostile = Example(
        HOSTILE, HOSTILE, (HOSTILE, "x"), (Passage(HOSTILE * 3 + " x.", id=HOSTILE), Passage("a", title=HOSTILE))
    )
    plain = Reading(report(SAMPLES[:1]))
    text = report([hostile], Spec("bm25", {"separator": HOSTILE}))
    reading = Reading(text)
    assert reading.tags <= plain.tags
    assert {name for name, _ in reading.attributes} == {name for name, _ in plain.attributes}
    assert "onerror" in "".join(reading.words)
    text.encode("utf-8")
    assert "\x00" not in text
    assert "\x1b" not in text


def test_long_dropped_stretches_are_abridged_unless_the_answer_is_in_them():
    filler = "Nothing of note was ever said here. " * 200
    passages = (Passage(filler + "It is in city0."), Passage(filler), Passage("Where is 0? In a town."))
    example = Example("q", "Where is 0?", ("city0",), passages)
    text = report([example])
    assert text.count("characters …]") == 2
    assert 'in <span class="answer">city0</span>' in text


def test_a_result_without_spans_is_shown_as_it_is():
    found = duels(SAMPLES[:1], (BM25, {0.2: outcomes(1.0)}), (TRUNCATE, {0.2: outcomes(0.0)}), "retention", 1)
    duel = found.shown[0]
    written = replace(duel.first, result=replace(duel.first.result, spans=None, text="<Rewritten>"))
    text = page("t", [row()], "retention", b"", replace(found, shown=(replace(duel, first=written),)))
    assert "<mark>&lt;Rewritten&gt;</mark>" in text


def test_the_picture_is_a_png_and_the_same_each_time():
    rows = [row(spec, keep) for spec in (BM25, TRUNCATE) for keep in (0.02, 0.1)]
    png = picture(rows, "towns", ["retention"], ["bm25"])
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(png[16:20]) > 700
    assert picture(rows, "towns", ["retention"], ["bm25"]) == png
    assert picture(rows[:2], "towns", ["retention"]) != png


def test_the_picture_survives_odd_names_and_values():
    own = [outcome(0.0, tokens_out=0), outcome(1.0, tokens_out=0)]
    specs = [Spec("bm25", {"separator": text}) for text in ("$\\frac$ $", "_", "x" * 300, "\x00\n", "北京", "%s {} ^")]
    rows = [row(spec, own=own) for spec in specs] + [row(Spec("bm25", {"k1": k})) for k in range(1, 12)]
    wide = picture(rows, "$ {x}", ["retention", "missing"])
    assert int.from_bytes(wide[16:20]) > 1400


def test_threshold_runs_are_drawn():
    rows = [row(Spec("bm25", {"min_score": s}), 1.0, own=outcomes(1.0, 1.0, tokens_out=s)) for s in (3, 9, 40)]
    assert picture(rows, "towns", ["retention"])[:4] == b"\x89PNG"


def test_rows_are_json(tmp_path):
    write_results(tmp_path / "a.jsonl", [row(Spec("bm25", {"protect": ("digits",)}))])
    (line,) = (tmp_path / "a.jsonl").read_text().splitlines()
    assert json.loads(line)["settings"] == {"protect": ["digits"]}
