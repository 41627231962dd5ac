"""The command line, as clumsy and hostile users meet it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctxcomp import load, resolve_counter
from ctxcomp.cli import main

TEXT = "Zürich lies on a lake. Paris is big. The mayor of Zürich is Corine Mauch. Rain falls.\r\nNew line here. End."


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.encode())
    return path


@pytest.fixture
def run(capsysbinary):
    def run(*argv: object) -> tuple[int, str, str]:
        try:
            status = main([str(a) for a in argv])
        except SystemExit as stop:
            status = stop.code
        out, err = capsysbinary.readouterr()
        return status, out.decode("utf-8"), err.decode("utf-8").rpartition("\r")[2]

    return run


@pytest.fixture
def stdin(monkeypatch):
    def stdin(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return stdin


def shell(command: str, **options) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PY": sys.executable}
    return subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60, **options
    )


def test_text_is_written_to_stdout_and_statistics_to_stderr(run, file, vocabularies):
    status, out, err = run("compress", "--method", "bm25", "-q", "Who is mayor?", "--tokens", 10, file)
    assert (status, out) == (0, "The mayor of Zürich is Corine Mauch.\n")
    assert err.startswith("31 -> 10 tokens (keep 0.323), ")
    assert err.endswith(" ms, bm25, o200k_base\n")


def test_the_default_method_needs_no_options_but_a_budget(run, file):
    status, out, err = run("compress", "-q", "Who governs the city?", "--keep", 0.4, file)
    assert status == 0
    assert "Corine Mauch" in out
    assert ", sentence_pruner, " in err


def test_json_has_the_promised_shape_and_spans_that_slice_the_file(run, file, vocabularies):
    status, out, err = run("compress", "--method", "bm25", "-q", "mayor", "--tokens", 14, "--format", "json", file)
    result = json.loads(out)
    assert (status, err) == (0, "")
    assert list(result) == ["text", "passages", "stats"]
    (passage,) = result["passages"]
    assert list(passage) == ["id", "source", "text", "tokens", "spans"]
    assert passage["source"] == str(file)
    decoded = file.read_bytes().decode()
    assert [decoded[s["start"] : s["end"]] for s in passage["spans"]] == [
        "Paris is big.", "The mayor of Zürich is Corine Mauch.",
    ]  # fmt: skip
    assert set(passage["spans"][0]) == {"start", "end", "score"}
    counter = resolve_counter("o200k_base")
    assert passage["tokens"] == counter.count(passage["text"])
    stats = result["stats"]
    assert list(stats) == ["tokens_in", "tokens_out", "keep", "seconds", "counter", "method", "fallback", "notes"]
    assert stats["tokens_out"] == counter.count(result["text"]) <= 14
    assert stats["keep"] == stats["tokens_out"] / stats["tokens_in"]
    assert (stats["counter"], stats["method"]) == ("o200k_base", "bm25")


@pytest.mark.parametrize(
    "data", [b"\xef\xbb\xbfOne is here.\r\nTwo.\r\n\r\nThree.\r\n", "Üa.\r\nB b.".encode("utf-16")]
)
def test_spans_index_into_the_decoded_bytes(run, tmp_path, data):
    (tmp_path / "f.md").write_bytes(data)
    _, out, _ = run("compress", "--method", "truncate", "--keep", 1, "--format", "json", tmp_path / "f.md")
    decoded = data.decode("utf-16" if data[0] in (0xFF, 0xFE) else "utf-8")
    result = json.loads(out)
    words = [decoded[s["start"] : s["end"]] for s in result["passages"][0]["spans"]]
    assert "".join(words) == "".join(decoded.replace("\ufeff", "").split())


def test_json_counts_passages_with_the_counter_of_a_chain(run, file):
    argv = ["--method", "bm25+truncate", "--tokenizer", "minilm", "--tokens", 9, "--format", "json", file]
    result = json.loads(run("compress", *argv)[1])
    assert result["stats"]["counter"] == "minilm-wordpiece"
    assert result["passages"][0]["tokens"] == resolve_counter("minilm").count(result["text"])


def test_a_lone_surrogate_survives_json_and_does_not_break_text(run, tmp_path):
    (tmp_path / "s.jsonl").write_bytes(rb'{"text": "bad \ud800 char.", "id": "\ud800"}')
    status, out, _ = run("compress", "--method", "bm25", "--keep", 1, "--format", "json", tmp_path / "s.jsonl")
    assert status == 0
    assert json.loads(out)["passages"][0]["id"] == "\ud800"
    assert json.loads(out)["text"] == "bad \ud800 char."
    assert run("compress", "--method", "bm25", "--keep", 1, tmp_path / "s.jsonl")[:2] == (0, "bad ? char.\n")


def test_highlight_shows_kept_and_dropped_text(run, file, monkeypatch):
    argv = ["compress", "--method", "bm25", "-q", "mayor", "--tokens", 10, "--format", "highlight", file]
    monkeypatch.delenv("NO_COLOR", raising=False)
    _, out, _ = run(*argv)
    assert "\x1b[1mThe mayor of Zürich is Corine Mauch.\x1b[0m" in out
    assert "\x1b[2m Rain falls.\nNew line here. End.\x1b[0m" in out
    monkeypatch.setenv("NO_COLOR", "1")
    _, out, _ = run(*argv)
    assert "\x1b" not in out
    assert "-]The mayor of Zürich is Corine Mauch.[-" in out


def test_standard_input_as_text_and_as_jsonl(run, stdin):
    stdin("Der Hund bellt. Die Katze schläft.".encode())
    assert run("compress", "--method", "bm25", "-q", "Katze", "--tokens", 8, "-")[1] == "Die Katze schläft.\n"
    stdin(b'{"text": "A dog.", "id": "x"}\n\n{"text": "A cat."}\n')
    _, out, _ = run("compress", "--method", "bm25", "--keep", 1, "--format", "json", "-")
    assert [(p["id"], p["source"]) for p in json.loads(out)["passages"]] == [("x", "-"), ("-:3", "-")]
    stdin(b'{"text": "A dog."}')
    status, out, _ = run("compress", "--method", "bm25", "--keep", 1, "--input-format", "text", "-")
    assert (status, out) == (0, '{"text": "A dog."}\n')


def test_nothing_in_nothing_out(run, tmp_path, stdin):
    (tmp_path / "e.txt").write_bytes(b"")
    (tmp_path / "w.txt").write_bytes(b" \r\n\t\n ")
    assert run("compress", "--tokens", 5, tmp_path)[:2] == (0, "\n")
    stdin(b"")
    assert run("compress", "--tokens", 5, "-")[:2] == (0, "\n")


def test_a_budget_of_zero_is_an_empty_context(run, file, vocabularies):
    status, out, err = run("compress", "--method", "bm25", "--tokens", 0, file)
    assert (status, out) == (0, "\n")
    assert err.startswith("31 -> 0 tokens (keep 0.000)")


def test_the_same_file_twice_is_two_passages(run, file):
    result = json.loads(run("compress", "--method", "bm25", "--keep", 1, "--format", "json", file, file)[1])
    assert [p["text"] for p in result["passages"]] == [TEXT, TEXT]


def test_list_has_one_line_for_each_method(run):
    status, out, _ = run("list")
    names = [line.split()[0] for line in out.splitlines()]
    assert status == 0
    assert {"truncate", "random", "bm25", "embedding_select", "token_pruner"} <= set(names)
    assert all(len(line.split()) > 3 for line in out.splitlines())


USAGE = [
    (["--tokens", "-1"], "Budget.tokens must be 0 or more, got -1"),
    (["--tokens", "1e3"], "argument --tokens: invalid int value: '1e3'"),
    (["--tokens", "9" * 5000], "argument --tokens: invalid int value"),
    (["--keep", "nan"], "Budget.keep must be in (0, 1], got nan"),
    (["--keep", "inf"], "Budget.keep must be in (0, 1], got inf"),
    (["--keep", "0"], "Budget.keep must be in (0, 1], got 0.0"),
    (["--keep", "x"], "argument --keep: invalid float value: 'x'"),
    (["--keep", "0.5", "--tokens", "5"], "not allowed with argument"),
    ([], "one of the arguments --tokens --keep is required"),
    (["--tokens", "5", "--method", "bm26"], "no method 'bm26': did you mean 'bm25'?"),
    (["--tokens", "5", "--method", "BM25"], "did you mean 'bm25'?"),
    (["--tokens", "5", "--method", "embeding_select"], "did you mean 'embedding_select'?"),
    (["--tokens", "5", "--method", "zzzz"], "no method 'zzzz': there are bm25,"),
    (["--tokens", "5", "--method", "bm25+"], "no method '': there are bm25,"),
    (["--tokens", "5", "--method", "+"], "no method '': there are bm25,"),
    (["--tokens", "5", "--method", "/etc/passwd"], "no method '/etc/passwd'"),
    (["--tokens", "5", "--tokenizer", "gpt4o"], "no tokenizer 'gpt4o'"),
    (["--tokens", "5", "--tokenizer", ""], "no tokenizer ''"),
    (["--tokens", "5", "--tokenizer", "x" * 5000], "no tokenizer 'xxx"),
    (["--tokens", "5", "--format", "xml"], "invalid choice: 'xml'"),
    (["--tokens", "5", "--x\ny\x1b[31m"], "unrecognized arguments: --x y�[31m"),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "message"), USAGE)
def test_wrong_usage_is_one_line_and_status_2(run, file, argv, message):
    status, out, err = run("compress", "--method", "bm25", *argv, file)
    assert (status, out) == (2, "")
    assert err.startswith("ctxcomp: ")
    assert err.count("\n") == 1
    assert message in err
    assert len(err) < 1200


SETTINGS = [
    ("foo", "--set takes FIELD=VALUE, got 'foo'"),
    ("=5", "--set takes FIELD=VALUE, got '=5'"),
    ("foo=1", "bm25 has no field 'foo': there are allocate, b,"),
    ("unot=word", "did you mean 'unit'?"),
    ("name=x", "bm25 has no field 'name'"),
    ("__init__=1", "bm25 has no stage"),
    ("widen=2", "bm25 has no field 'widen'"),
    ("truncate.side=tail", "bm25 has no stage 'truncate'"),
    ("a.b.c=1", "bm25 has no stage"),
    ("unit=wrod", "unit must be one of 'passage', 'paragraph', 'sentence', 'word', got 'wrod'"),
    ('unit=["word"]', "unit must be one of"),
    ('unit={"a": [1]}', "unit must be one of"),
    ("k1=abc", "k1 must be a finite number, got 'abc'"),
    ("k1=true", "k1 must be a finite number, got True"),
    ("k1=NaN", "k1 must be a finite number, got nan"),
    ("k1=1e999", "k1 must be a finite number, got inf"),
    ("k1=" + "9" * 400, "k1 must be a finite number, got 999"),
    ("k1=" + "9" * 5000, "k1 must be a finite number, got '999"),
    ("k1=" + "[" * 20000, "k1 must be a finite number, got '[[["),
    ("min_score=-Infinity", "min_score must be a finite number or None"),
    ("floor_tokens=1.5", "floor_tokens must be a whole number"),
    ("floor_tokens=-3", "floor_tokens must be 0 or more"),
    ("per_token=yes", "per_token must be true or false, got 'yes'"),
    ("protect=digits", "protect must be a list of text, got 'digits'"),
    ('protect=[["a"]]', "protect must be a list of text"),
    ('protect=["("]', "nor a regular expression"),
    ("header={text.__class__}", "header may use"),
    ("counter=5", "cannot count tokens with a int"),
    ('counter={"a": 1}', "cannot count tokens with a dict"),
    ("counter=nope", "no tokenizer 'nope'"),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "message"), SETTINGS)
def test_wrong_settings_are_one_line_and_status_2(run, file, setting, message):
    status, out, err = run("compress", "--method", "bm25", "-q", "mayor", "--tokens", 8, "--set", setting, file)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert len(err) < 1200


@pytest.mark.parametrize(
    ("setting", "message"),
    [("widen=0.5", "widen must be 1 or more"), ("widen=abc", "widen must be a finite number, got 'abc'"),
     ("widen=null", "got None"), ("widen=NaN", "got nan"), ("stage.field=1", "bm25+truncate has no stage 'stage'"),
     ("widenn=3", "did you mean 'widen'?"), ("bm25.side=tail", "bm25 has no field 'side'"),
     ("bm25.counter=minilm", "must share one counter"), ("elision=[x]", "cannot place elision marks")],
)  # fmt: skip
def test_wrong_settings_of_a_chain(run, file, setting, message):
    status, _, err = run("compress", "--method", "bm25+truncate", "--tokens", 8, "--set", setting, file)
    assert (status, err.count("\n")) == (2, 1)
    assert message in err


def test_settings_reach_one_stage_or_all_that_have_them(run, file):
    chain = ["compress", "--method", "bm25+truncate", "-q", "mayor", "--tokens", 4]
    assert run(*chain, file)[1] == "The mayor of Zürich\n"
    assert run(*chain, "--set", "widen=2.5", "--set", "truncate.side=tail", file)[1].endswith("Mauch.\n")
    assert run(*chain, "--set", "widen=1", file)[1] == "Paris is big.\n"
    assert run(*chain, "--set", "unit=passage", file)[0] == 0
    assert run("compress", "--method", "bm25", "--tokens", 8, "--set", "bm25.unit=word", file)[0] == 0


def test_bad_files_are_one_line_and_status_2(run, tmp_path):
    (tmp_path / "b.txt").write_bytes(b"PK\x03\x04\0\0")
    for name, words in (("b.txt", "binary, not text"), ("none\x1b[31m.txt", "no such file or folder")):
        status, out, err = run("compress", "--method", "bm25", "--tokens", 5, tmp_path / name)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert words in err
        assert "\x1b" not in err


def test_damaged_tokenizers_are_a_failure_and_status_1(run, file, tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordPiece"')
    status, _, err = run("compress", "--method", "bm25", "--tokens", 5, "--tokenizer", tmp_path, file)
    assert (status, err.count("\n")) == (1, 1)
    assert "is no tokenizer that can be read" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_the_module_runs_and_survives_what_shells_do(file):
    ctxcomp = '"$PY" -m ctxcomp'
    done = shell(f"{ctxcomp} compress --method truncate --keep 1 {file} | head -c 3; {ctxcomp} list >/dev/full")
    assert (done.returncode, done.stdout) == (1, "Zür"[:2])
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    done = shell(
        f"{ctxcomp} list >&-; echo $?; {ctxcomp} list 2>&- | grep -c '^bm25 '; "
        f"{ctxcomp} compress --keep 1 - <&-; echo $?"
    )
    assert done.stdout.split() == ["1", "1", "2"]
    assert done.stderr.splitlines() == [
        "ctxcomp: OSError: standard output is closed", "ctxcomp: -: standard input is closed",
    ]  # fmt: skip


def test_a_reader_that_stops_early_is_no_failure(tmp_path):
    (tmp_path / "long.txt").write_text("many words here\n" * 40_000)
    done = shell(f'"$PY" -m ctxcomp compress --method truncate --keep 1 {tmp_path} | head -1; echo ${{PIPESTATUS[0]}}')
    assert done.stdout == "many words here\n0\n"
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_an_interrupt_is_one_line_and_status_130_and_long_work_shows_progress(tmp_path, vocabularies):
    (tmp_path / "long.txt").write_text("".join(f"Sentence number {i} says {i * i}. " for i in range(60_000)))
    command = [sys.executable, "-m", "ctxcomp", "compress", "-q", "x", "--tokens", "9", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stderr is not None
    began = time.monotonic()
    seen = process.stderr.read(12)  # blocks until there is a sign of life
    assert seen == b"\rcompressing"
    assert time.monotonic() - began > 1
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert err.endswith(b"ctxcomp: interrupted\n")
    assert err.count(b"\n") == 1


def test_quick_work_shows_no_progress(file, capfdbinary):
    load("embedding_select").load_encoder()
    main(["compress", "-q", "mayor", "--tokens", "8", str(file)])
    assert b"compressing" not in capfdbinary.readouterr().err


def test_import_needs_no_heavy_module():
    heavy = "torch transformers onnxruntime onnx tokenizers tiktoken bm25s huggingface_hub tqdm sqlite3 requests"
    code = "import sys, ctxcomp.cli; ctxcomp.load('truncate'); print([m for m in sys.argv[1:] if m in sys.modules])"
    done = shell(f'"$PY" -c "{code}" {heavy} importlib.metadata')
    assert (done.stdout, done.stderr) == ("[]\n", "")
