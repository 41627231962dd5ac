"""``ctxcomp eval``, as its users meet it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ctxcomp.cli import main
from ctxcomp_eval.summary import read_results


def question(i):
    return {
        "question": f"Where does person {i} live?",
        "answer": f"city{i}",
        "passages": ["Nothing of note. " * 12, f"Person {i} lives in city{i}. " + "Other words follow here. " * 6],
    }


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps(question(i)) for i in range(5)), encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path, capsys):
    def run(*argv):
        folders = ["--out", tmp_path / "out", "--runs", tmp_path / "runs"]
        try:
            status = main(["eval", *map(str, argv), *map(str, folders)])
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_the_users_own_questions_end_to_end(run, file, tmp_path):
    status, out, err = run("--data", file, "--methods", "bm25?k1=1.2,truncate", "--keep", "0.25,1", "--examples", 2)
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "## mine: 5 questions"
    methods = [line.split("|")[1].strip() for line in lines if line.startswith("| ")][2:]
    assert methods == ["bm25?k1=1.2", "truncate", "random", "bm25"] * 2
    assert "0 of 5" in out
    assert "mine bm25?k1=1.2" in err
    assert "5/5" in err
    rows = read_results(tmp_path / "out" / "mine.jsonl")
    assert len(rows) == 8
    best = next(row for row in rows if row["settings"] and row["keep"] == 0.25)
    assert best["metrics"]["retention"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 5}
    assert best["keep_spent"] <= 0.25
    assert best["unfaithful"] == 0 < best["checked"]
    assert (tmp_path / "out" / "mine.png").read_bytes()[:4] == b"\x89PNG"
    page = (tmp_path / "out" / "mine.html").read_text(encoding="utf-8")
    assert "At keep 0.25, by retention: 5 wins and 0 losses of bm25?k1=1.2 against truncate. 2 of them:" in page
    assert page.count('<span class="win">') == 2


def test_a_second_call_measures_nothing_and_says_the_same(run, file, tmp_path):
    argv = ("--data", file, "--methods", "bm25,truncate", "--keep", "0.25", "--no-baselines")
    _, first, _ = run(*argv)
    journals = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.jsonl")}
    assert len(journals) == 2
    _, second, err = run(*argv, "--batch", 1)
    assert (first, err) == (second, "")
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.jsonl")} == journals
    assert "random" not in first
    _, _, err = run(*argv, "--fresh")
    assert "5/5" in err


def test_a_threshold_is_a_setting_at_keep_one(run, file, tmp_path):
    status, _, _ = run("--data", file, "--methods", "bm25?min_score=0.9,bm25?min_score=9", "--keep", 1)
    assert status == 0
    spent = {json.dumps(row["settings"]): row["keep_spent"] for row in read_results(tmp_path / "out" / "mine.jsonl")}
    assert spent['{"min_score": 9}'] < spent['{"min_score": 0.9}'] < spent["{}"] == 1


def test_a_csv_file_several_sets_and_a_limit(run, file, tmp_path):
    table = tmp_path / "other, too.csv"
    table.write_text('question,answers,context\nWho?,"[""Ann""]",Ann wrote it. Bob did not.\n', encoding="utf-8")
    assert run("--data", table, "--methods", "bm25", "--keep", 0.6)[0] == 0
    plain = table.rename(tmp_path / "other.csv")
    status, out, _ = run("--data", f"{plain},{file}", "--methods", "bm25", "--keep", 0.6, "--limit", 3, "--examples", 0)
    assert status == 0
    assert "## other_first3: 1 questions" in out
    assert "## mine_first3: 3 questions" in out
    assert "<details>" not in (tmp_path / "out" / "mine_first3.html").read_text(encoding="utf-8")


def test_registered_sets_by_name(run, shared, tmp_path):
    status, out, _ = run("--data", "nq20", "--methods", "bm25", "--keep", "0.1", "--limit", 3)
    assert status == 0
    assert "truncate?by_passage_score=true" in out
    assert (tmp_path / "out" / "nq20_first3.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--methods", "bm25"], "--data"),
        (["--data", "nq200"], "did you mean 'nq20'"),
        (["--data", "absent.jsonl"], "no file absent.jsonl"),
        (["--data", "FILE,FILE"], "two data sets are called 'mine'"),
        (["--data", "FILE", "--methods", "bm52"], "did you mean 'bm25'"),
        (["--data", "FILE", "--methods", "peer:llmlinguas"], "did you mean 'llmlingua'"),
        (["--data", "FILE", "--methods", "bm25?k=1"], "'k1'"),
        (["--data", "FILE", "--methods", "bm25?k1=high"], "k1 must be a finite number"),
        (["--data", "FILE", "--methods", ""], "a method needs a name"),
        (["--data", "FILE", "--keep", "0"], "--keep must be in (0, 1], got 0"),
        (["--data", "FILE", "--keep", "0.1,1.5"], "got 1.5"),
        (["--data", "FILE", "--keep", "nan"], "got nan"),
        (["--data", "FILE", "--keep", "ten"], "numbers in (0, 1]"),
        (["--data", "FILE", "--keep", ""], "numbers in (0, 1]"),
        (["--data", "FILE", "--batch", "0"], "--batch must be 1 or more"),
        (["--data", "FILE", "--examples", "-1"], "--examples must be 0 or more"),
        (["--data", "FILE", "--limit", "0"], "limit must be 1 or more"),
        (["--data", "FILE", "--limit", "many"], "invalid int value"),
        (["--data", "FILE", "--llm", "http://localhost:1"], "--llm-model NAME go together"),
        (["--data", "FILE", "--speed", "9"], "unrecognized arguments: --speed"),
        (["--data", "FILE", "stray"], "unrecognized arguments: stray"),
    ],
)
def test_bad_input_is_one_line_and_status_2(run, file, argv, message):
    status, out, err = run(*(text.replace("FILE", str(file)) for text in argv))
    assert (status, out) == (2, "")
    assert re.fullmatch(r"ctxcomp: [^\n]+\n", err)
    assert message in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no questions"),
        ('{"question": "Q", "answer": "A", "context": "none"}\n', "no answer is in its full context"),
        ('{"question": "Q", "context": "none"}\n', "needs 'answers' or 'answer'"),
        ("not json\n", "line 1: not JSON"),
        ("\x00\n", "line 1"),
    ],
)
def test_files_that_cannot_be_used(run, tmp_path, content, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(content, encoding="utf-8")
    status, out, err = run("--data", path, "--methods", "bm25")
    assert (status, out) == (2, "")
    assert re.fullmatch(r"ctxcomp: [^\n]+\n", err)
    assert message in err


class Without:
    """An import path on which a package is not installed."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize("package", ["matplotlib", "ctxcomp_eval"])
def test_what_is_not_installed_is_named_before_anything_runs(run, file, monkeypatch, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Without(package), *sys.meta_path])
    status, out, err = run("--data", file, "--methods", "bm25")
    assert (status, out) == (1, "")
    assert err.splitlines()[-1] == (
        f"ctxcomp: '{package}' is needed here and is not installed: run `pip install 'ctxcomp[eval]'`"
    )


class Answering(BaseHTTPRequestHandler):
    """A chat model that answers with the first city it sees in the context."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = re.search(r"city\d+", body["messages"][-1]["content"])
        said = json.dumps({"choices": [{"message": {"content": found.group() if found else "unknown"}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


def test_a_language_model_answers_from_what_is_left(run, file, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        argv = ("--data", file, "--methods", "bm25,truncate", "--keep", "0.3", "--no-baselines")
        status, out, _ = run(*argv, "--llm", url, "--llm-model", "seer")
        server.shutdown()
    assert status == 0
    assert "llm is llm:seer." in out
    assert "llm_f1 on the full context: 1.000 [1.000, 1.000]." in out
    good, bad = read_results(tmp_path / "out" / "mine.jsonl")
    assert good["metrics"]["llm_em"]["mean"] == 1.0
    assert bad["minus_full"]["llm_f1"] == {"mean": -1.0, "low": -1.0, "high": -1.0, "n": 5}
    assert bad["answerers"] == {"llm": "llm:seer"}
    page = (tmp_path / "out" / "mine.html").read_text(encoding="utf-8")
    assert "llm says: <bdi>unknown</bdi>" in page


def test_output_needs_no_unicode_terminal(file, tmp_path):
    command = [sys.executable, "-m", "ctxcomp", "eval", "--data", str(file), "--methods", "bm25", "--keep", "0.5"]
    command += ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    path = os.pathsep.join(p for p in sys.path if p)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0
    assert "retention − first" in done.stdout.decode("utf-8")


def test_help_is_its_own(run):
    status, out, _ = run("--help")
    assert status == 0
    assert "usage: ctxcomp eval" in out
    assert "hotpot10" in out


def test_an_interrupt_leaves_what_is_done_and_says_so(tmp_path):
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join(json.dumps(question(i)) for i in range(120)), encoding="utf-8")
    folders = ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    options = ["--data", str(path), "--methods", "bm25", "--keep", "0.1,0.3", "--batch", "2", "--examples", "1"]
    command = [sys.executable, "-m", "ctxcomp", "eval", *options, "--no-baselines", *folders]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    began = time.monotonic()
    while not list((tmp_path / "runs").rglob("*.jsonl")) and time.monotonic() - began < 60:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == b""
    last = err.decode().splitlines()[-1]
    assert last == f"ctxcomp: interrupted: what is done is in {tmp_path / 'runs'}, and the same command goes on there"
    done = {p: p.read_text().splitlines()[0] for p in (tmp_path / "runs").rglob("*.jsonl")}
    assert main(["eval", *options, "--no-baselines", *folders]) == 0
    assert all(p.read_text().startswith(line) for p, line in done.items())
    resumed = read_results(tmp_path / "out" / "many.jsonl")
    assert main(["eval", *options, "--no-baselines", *folders, "--fresh", "--batch", "50"]) == 0
    timeless = [
        [{k: v for k, v in row.items() if k != "seconds_p50"} for row in rows]
        for rows in (resumed, read_results(tmp_path / "out" / "many.jsonl"))
    ]
    assert timeless[0] == timeless[1]
