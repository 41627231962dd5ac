import json
import re
from dataclasses import asdict, dataclass, replace

import pytest

from ctxcomp import Budget, FallbackToInput, Passage, load
from ctxcomp.compressor import Compressor
from ctxcomp.errors import CtxcompError, InputError, ModelError, UnknownMethodError
from ctxcomp.types import Compressed, Stats
from ctxcomp_eval.data import Example
from ctxcomp_eval.journal import Journal
from ctxcomp_eval.runner import Setup, full_answers, measure
from ctxcomp_eval.specs import Spec, baselines, parse_methods, unique
from ctxcomp_eval.tasks import Task
from ctxcomp_eval.tasks.measures import answer_retention


def example(i, **changes):
    passages = (
        Passage("Rain falls on the hills. Nothing else is known here. " * 3),
        Passage(f"Some words first. Person {i} lives in city{i}. Other words follow here."),
    )
    given = {"id": f"q{i}", "question": f"Where does person {i} live?", "answers": (f"city{i}",), "passages": passages}
    return Example(**{**given, **changes})


EXAMPLES = [example(i) for i in range(7)]
TASK = Task("towns", ("retention",), lambda limit: EXAMPLES[:limit], answer_retention)


@pytest.fixture
def setup(tmp_path):
    return Setup(tmp_path / "runs", batch=3)


def timeless(outcomes):
    return {keep: [replace(outcome, seconds=0.0) for outcome in own] for keep, own in outcomes.items()}


@dataclass(frozen=True)
class Given(Spec):
    """A method that no registry has."""

    compressor: Compressor = None

    def load(self):
        return self.compressor


@dataclass(frozen=True, kw_only=True)
class Watched(Compressor):
    """bm25, with an eye on what it is asked, and changes to what it says."""

    asked: list
    change: object = None

    def compress_batch(self, requests):
        self.asked.append(requests)
        results = load("bm25").compress_batch(requests)
        return [self.change(result) for result in results] if self.change else results


def watched(**fields):
    return Given("watched", {}, Watched(asked=[], **fields))


@pytest.mark.parametrize(
    ("text", "name", "fields"),
    [
        (" bm25 ", "bm25", {}),
        ("bm25?k1=0.5&unit=word&fill=true", "bm25", {"k1": 0.5, "unit": "word", "fill": True}),
        ("bm25+token_pruner?token_pruner.force_digits=true", "bm25+token_pruner", {"token_pruner__force_digits": True}),
        (r'bm25?protect=["\\d+", "a"]', "bm25", {"protect": ["\\d+", "a"]}),
        ("bm25?header=", "bm25", {"header": ""}),
        ("bm25?header=a%26b", "bm25", {"header": "a&b"}),
        ("peer:llmlingua?rate=0.3", "peer:llmlingua", {"rate": 0.3}),
    ],
)  # fmt: skip
def test_methods_are_read(text, name, fields):
    spec = Spec.parse(text)
    assert (spec.name, spec.fields) == (name, fields)


def test_a_list_of_methods_keeps_lists_of_values_whole():
    specs = parse_methods('bm25?protect=["a","b"],truncate,bm25+truncate?widen=2,truncate')
    assert [str(spec) for spec in specs] == ['bm25?protect=["a", "b"]', "truncate", "bm25+truncate?widen=2"]
    assert specs[0].load().protect == ("a", "b")
    assert specs[2].load().widen == 2


@pytest.mark.parametrize("text", ["", "?k1=2", "bm25?k1", "bm25,,truncate", "bm25?="])
def test_what_is_no_method_is_refused(text):
    with pytest.raises(InputError):
        [spec.load() for spec in parse_methods(text)]


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UnknownMethodError, match="did you mean 'bm25'"):
        Spec.parse("bm52").load()
    with pytest.raises(UnknownMethodError, match="'unit'"):
        Spec.parse("bm25?units=word").load()


def test_baselines_follow_the_retriever_where_it_gave_scores():
    assert [str(spec) for spec in baselines(EXAMPLES)] == ["random", "truncate", "bm25"]
    scored = example(0, passages=(Passage("a", score=1.0), Passage("b", score=2.0)))
    assert [str(s) for s in baselines([scored])] == ["random", "truncate?by_passage_score=true", "bm25"]
    assert len(unique([Spec("bm25", {}), *baselines(EXAMPLES)])) == 3


def test_a_journal_survives_what_an_interruption_leaves(tmp_path):
    path = tmp_path / "folder" / "run.jsonl"
    Journal(path).add({"a": {"x": 1}, "b": {"x": 2}})
    with path.open("a") as lines:
        lines.write('{"key": "c", "x"')
    journal = Journal(path)
    assert set(journal.rows) == {"a", "b"}
    journal.add({"c": {"x": 3}})
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "b", "c"]
    assert "c" in Journal(path)
    assert not Journal(path, fresh=True).rows


@pytest.mark.parametrize("cut", ['{"key": "b", "x": 2}', '{"x": 2}\n', "[]\n", "\x00\xff\n", "\n"])
def test_a_journal_drops_whatever_is_no_row(tmp_path, cut):
    path = tmp_path / "run.jsonl"
    path.write_text('{"key": "a", "x": 1}\n' + cut)
    assert set(Journal(path).rows) == {"a"}
    Journal(path).add({"b": {"x": 2}})
    assert set(Journal(path).rows) == {"a", "b"}


def test_outcomes_are_what_the_compressor_gives(setup):
    outcomes = measure(TASK, EXAMPLES, Spec("bm25", {}), [0.2, 1.0], setup)
    assert list(outcomes) == [0.2, 1.0]
    for i, (small, whole) in enumerate(zip(outcomes[0.2], outcomes[1.0], strict=True)):
        result = load("bm25").compress(EXAMPLES[i].question, EXAMPLES[i].passages, Budget(keep=0.2))
        assert (small.id, small.tokens_out) == (f"q{i}", result.stats.tokens_out)
        assert small.metrics == {"retention": float(f"city{i}" in result.text)} == {"retention": 1.0}
        assert small.tokens_out <= 0.2 * small.tokens_in
        assert whole.tokens_out == whole.tokens_in
        assert small.faithful
        assert not small.over_budget


def test_all_keeps_of_a_question_go_into_one_batch(setup):
    spec = watched()
    measure(TASK, EXAMPLES, spec, [0.1, 0.5], setup)
    assert [len(requests) for requests in spec.compressor.asked] == [6, 6, 2]
    assert len({request.query for request in spec.compressor.asked[0]}) == 3


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_the_batch_changes_no_result(setup, tmp_path, batch):
    spec = Spec("embedding_select", {})
    first = measure(TASK, EXAMPLES, spec, [0.1, 0.3], setup)
    again = measure(TASK, EXAMPLES, spec, [0.1, 0.3], Setup(tmp_path / "other", batch=batch))
    assert timeless(first) == timeless(again)


def test_an_interrupted_run_goes_on_where_it_stopped(setup):
    left = iter(range(6))

    def interrupted(result):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return result

    with pytest.raises(KeyboardInterrupt):
        measure(TASK, EXAMPLES, watched(change=interrupted), [0.2], setup)
    again = watched(change=lambda result: result)
    outcomes = measure(TASK, EXAMPLES, again, [0.2], setup)
    assert [len(requests) for requests in again.compressor.asked] == [1]
    assert [outcome.id for outcome in outcomes[0.2]] == [example.id for example in EXAMPLES]
    more = watched(change=lambda result: result)
    measure(TASK, EXAMPLES, more, [0.2, 0.4], setup)
    assert sum(map(len, more.compressor.asked)) == len(EXAMPLES)
    afresh = watched(change=lambda result: result)
    measure(TASK, EXAMPLES, afresh, [0.2], replace(setup, fresh=True))
    assert sum(map(len, afresh.compressor.asked)) == len(EXAMPLES)


def test_an_edited_question_and_other_settings_are_measured_anew(setup):
    measure(TASK, EXAMPLES, watched(), [0.2], setup)
    edited = [*EXAMPLES[:-1], replace(EXAMPLES[-1], passages=(Passage("Person 6 moved to city6."),))]
    again = watched()
    measure(TASK, edited, again, [0.2], setup)
    assert [request.passages for (request,) in again.compressor.asked] == [edited[-1].passages]
    other = watched()
    measure(TASK, EXAMPLES, replace(other, fields={"k1": 2}), [0.2], setup)
    assert sum(map(len, other.compressor.asked)) == len(EXAMPLES)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: replace(r, text=r.text + " invented"), False),
        (lambda r: replace(r, text=r.text.replace("city", "town"), passages=r.passages), False),
        (lambda r: replace(r, spans=()), False),
        (lambda r: replace(r, spans=None), None),
        (lambda r: r, True),
    ],
)
def test_what_is_not_in_the_source_is_found(setup, change, expected):
    outcomes = measure(TASK, EXAMPLES, watched(change=change), [0.4], setup)[0.4]
    assert {outcome.faithful for outcome in outcomes} == {expected}


def test_passages_of_its_own_do_not_help_a_method(setup):
    def lie(result):
        passages = (Passage("city0 city1 city2 city3"), result.passages[1])
        return load("bm25").compress("", passages, Budget(keep=1.0))

    outcomes = measure(TASK, EXAMPLES, watched(change=lie), [0.4], setup)[0.4]
    assert {outcome.faithful for outcome in outcomes} == {False}


@pytest.mark.parametrize(
    "compressor",
    [
        load("bm25", header="[{id}] {title}\n", elision="[… {units} left out]", separator="\n---\n"),
        load("bm25+truncate", widen=2),
        FallbackToInput(inner=load("bm25", unit="word", elision="[…]")),
    ],
)
def test_marks_that_the_settings_name_are_no_invention(setup, compressor):
    outcomes = measure(TASK, EXAMPLES, Given("given", {}, compressor), [0.4], setup)[0.4]
    assert all(outcome.faithful for outcome in outcomes)


def test_too_many_tokens_and_fallbacks_are_recorded(setup):
    spec = watched(change=lambda r: r.with_stats(tokens_out=r.stats.tokens_in, fallback="why"))
    outcomes = measure(TASK, EXAMPLES, spec, [0.4], setup)[0.4]
    assert all(outcome.over_budget for outcome in outcomes)
    assert {outcome.fallback for outcome in outcomes} == {"why"}


@dataclass(frozen=True, kw_only=True)
class Broken(Compressor):
    answer: object

    def compress_batch(self, requests):
        if isinstance(self.answer, CtxcompError):
            raise self.answer
        return [self.answer for _ in requests]


def test_errors_name_the_method(setup):
    with pytest.raises(ModelError, match=r"^broken\?a=1: no weights$"):
        measure(TASK, EXAMPLES, Given("broken", {"a": 1}, Broken(answer=ModelError("no weights"))), [0.4], setup)
    vectors = Compressed(stats=Stats(1, 1, 0.0, "c", "m"))
    with pytest.raises(InputError, match="broken returns Compressed: this evaluation needs text"):
        measure(TASK, EXAMPLES, Given("broken", {}, Broken(answer=vectors)), [0.4], setup)


def test_a_metric_that_is_no_number_is_refused(setup):
    task = replace(TASK, judge=lambda example, result: {"share": float("nan")})
    with pytest.raises(InputError, match="share of question 'q0' is nan"):
        measure(task, EXAMPLES, Spec("bm25", {}), [0.4], setup)


class Finder:
    """Answers with the first city of the context."""

    name = "finder"

    def __init__(self):
        self.questions = []

    def answer(self, questions, contexts):
        self.questions += questions
        found = (re.search(r"city\d+", context) for context in contexts)
        return [match.group() if match else "" for match in found]


def test_answerers_add_their_metrics_and_are_asked_once(setup):
    finder = Finder()
    setup = replace(setup, answerers={"reader": finder})
    examples = [*EXAMPLES, example(8, answers=())]
    outcomes = measure(TASK, examples, Spec("truncate", {}), [0.1, 1.0], setup)
    assert outcomes[0.1][0].metrics == {"retention": 0.0, "reader_em": 0.0, "reader_f1": 0.0}
    assert outcomes[1.0][0].metrics == {"retention": 1.0, "reader_em": 1.0, "reader_f1": 1.0}
    assert outcomes[1.0][0].predictions == {"reader": "city0"}
    assert outcomes[1.0][-1].metrics == {}
    assert len(finder.questions) == 2 * len(EXAMPLES)
    full = full_answers(TASK, examples, "reader", setup)
    assert full == [*[{"reader_em": 1.0, "reader_f1": 1.0}] * len(EXAMPLES), {}]
    assert full_answers(TASK, examples, "reader", setup) == full
    assert len(finder.questions) == 3 * len(EXAMPLES)


def test_results_without_an_answerer_do_not_stand_in_for_those_with_one(setup):
    measure(TASK, EXAMPLES, Spec("truncate", {}), [0.5], setup)
    outcomes = measure(TASK, EXAMPLES, Spec("truncate", {}), [0.5], replace(setup, answerers={"reader": Finder()}))
    assert all("reader_f1" in outcome.metrics for outcome in outcomes[0.5])


def test_any_text_is_measured(setup):
    odd = [
        example(0, question="", answers=("\ud800",), passages=(Passage("lone \ud800 sign."),)),
        example(1, id="same", passages=()),
        example(2, id="same", passages=(Passage(""),)),
        example(3, passages=(Passage("x", embedding=(0.5, 1.0), metadata={"set": frozenset({2, 1})}),)),
    ]
    first = measure(TASK, odd, Spec("bm25", {}), [0.5], setup)
    assert [asdict(o)["tokens_in"] for o in first[0.5]][1:3] == [0, 0]
    assert measure(TASK, odd, Spec("bm25", {}), [0.5], setup) == first
