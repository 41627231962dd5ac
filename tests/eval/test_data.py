import json

import pytest

from ctxcomp.errors import InputError
from ctxcomp.types import Passage
from ctxcomp_eval.data import bucket, data_dir, in_dev, load, read_rows
from ctxcomp_eval.retention import retained


@pytest.fixture
def data():
    try:
        return data_dir()
    except InputError as error:
        pytest.skip(str(error))


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_missing_data_says_what_to_set(monkeypatch, tmp_path):
    monkeypatch.setenv("CTXCOMP_DATA", str(tmp_path / "absent"))
    with pytest.raises(InputError, match="set CTXCOMP_DATA"):
        load("nq20")


def test_the_environment_names_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("CTXCOMP_DATA", str(tmp_path))
    assert data_dir() == tmp_path
    with pytest.raises(InputError, match="no file"):
        load("nq20")


def test_nq20(data):
    examples = load("nq20", limit=40)
    assert len(examples) == 40
    for example in examples:
        assert len(example.passages) == 20
        (gold,) = example.gold
        assert retained(example.answers, example.passages[gold].text)
        assert all(isinstance(passage.score, float) for passage in example.passages)


def test_hotpot10_support_lies_in_gold_passages(data):
    examples = load("hotpot10", limit=40)
    assert {example.kind for example in examples} == {"bridge", "comparison"}
    for example in examples:
        assert len(example.gold) == 2
        assert example.support
        for passage, start, end in example.support:
            assert passage in example.gold
            assert 0 <= start < end <= len(example.passages[passage].text)


def test_squad_support_is_the_answer(data):
    for name in ("squad_dev", "span_dev"):
        examples = load(name, limit=200)
        assert len({example.id for example in examples}) == 200
        for example in examples:
            ((passage, start, end),) = example.support
            assert example.passages[passage].text[start:end] in example.answers


def test_dev_splits_share_nothing_with_training(data):
    rows = list(read_rows(data / "qa" / "span_train.jsonl.gz"))
    dev = [row for row in rows if in_dev("span_dev", row)]
    assert 0.03 < len(dev) / len(rows) < 0.07
    assert not {r["context"] for r in dev} & {r["context"] for r in rows if not in_dev("span_dev", r)}
    assert {example.id for example in load("span_dev")} == {row["id"] for row in dev}
    assert 150 < len(load("hotpot_dev")) < 250


def test_bucket_is_the_same_on_every_machine():
    assert [bucket(key) for key in ("", "a", "ä")] == [52, 50, 32]


def test_jsonl(tmp_path):
    rows = [
        {"question": "Who?", "answers": ["A", "B"], "passages": ["one", {"text": "two", "id": 2, "title": "T"}]},
        {"id": "mine", "question": "What?", "answer": "C", "context": "three", "unused": 1},
    ]
    first, second = load(write(tmp_path, "q.jsonl", "\n\n".join(map(json.dumps, rows)) + "\n"))
    assert first.passages == (Passage("one"), Passage("two", id="2", title="T"))
    assert first.answers == ("A", "B")
    assert first.context == "one\n\ntwo"
    assert first.id == "line-1"
    assert (second.id, second.answers, second.passages) == ("mine", ("C",), (Passage("three"),))


def test_csv(tmp_path):
    text = '\ufeffquestion,answer,passages\nWho?,A,"[""one"", ""two, too""]"\nWhat?,"[sic]","[1] a note\nsecond line"\n'
    first, second = load(write(tmp_path, "q.csv", text))
    assert [p.text for p in first.passages] == ["one", "two, too"]
    assert second.answers == ("[sic]",)
    assert second.passages == (Passage("[1] a note\nsecond line"),)
    assert len(load(str(tmp_path / "q.csv"), limit=1)) == 1


GOOD = json.dumps({"question": "Who?", "answer": "A", "context": "one"}) + "\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: expected a JSON object"),
        ('{"answer": "A", "context": "x"}', "line 2: 'question' must be"),
        ('{"question": " ", "answer": "A", "context": "x"}', "line 2: 'question' must be"),
        ('{"question": "Q", "context": "x"}', "line 2: needs 'answers' or 'answer'"),
        ('{"question": "Q", "answers": [1], "context": "x"}', "line 2: every answer must be a text"),
        ('{"question": "Q", "answers": 7, "context": "x"}', "line 2: 'answers' must be a text or a list"),
        ('{"question": "Q", "answer": "A"}', "line 2: needs 'passages' or 'context'"),
        ('{"question": "Q", "answer": "A", "passages": [{"body": "x"}]}', "line 2: a passage is a text or an object"),
    ],
)
def test_jsonl_errors_name_the_line(tmp_path, line, message):
    path = write(tmp_path, "q.jsonl", GOOD + line + "\n")
    with pytest.raises(InputError, match=message):
        load(path)


def test_csv_errors_name_the_line(tmp_path):
    with pytest.raises(InputError, match="line 3: needs 'answers' or 'answer'"):
        load(write(tmp_path, "q.csv", "question,answer,context\nQ,A,x\nQ,,x\n"))
    with pytest.raises(InputError, match="line 2: more cells than columns"):
        load(write(tmp_path, "r.csv", "question,answer,context\nQ,A,x,y\n"))


@pytest.mark.parametrize("name", ["squad", "data.parquet", "nq20.json"])
def test_unknown_names_list_the_known(name):
    with pytest.raises(InputError, match="known are nq20, hotpot10"):
        load(name)


def test_nothing_in_a_file_and_no_file(tmp_path):
    with pytest.raises(InputError, match="no questions"):
        load(write(tmp_path, "q.jsonl", "\n"))
    with pytest.raises(InputError, match="no file"):
        load(str(tmp_path / "absent.csv"))
    with pytest.raises(InputError, match="limit must be 1 or more"):
        load(write(tmp_path, "q.jsonl", "{}"), limit=0)
