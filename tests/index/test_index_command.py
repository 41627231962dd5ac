"""``ctxcomp index``: from files to passages, and what is said when that does not work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("faiss")

from ctxcomp.cli import main
from ctxcomp.index import Index

FILES = {
    "novels.txt": "Middlemarch is a novel by George Eliot. It was published in eight parts.\n\nNew Grub Street is by "
    "George Gissing. It appeared in 1891.",
    "bees.md": "# Bees\n\nBees make honey. A hive holds thousands of them.",
    "more.jsonl": '{"text": "Der Zürichsee liegt bei Zürich.", "id": "see", "title": "Seen"}\n',
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / "docs" / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def run(capsysbinary):
    def run(*argv: object) -> tuple[int, str, str]:
        try:
            status = main(["index", *map(str, argv)])
        except SystemExit as stop:
            status = stop.code
        out, err = capsysbinary.readouterr()
        return status, out.decode("utf-8"), err.decode("utf-8").rpartition("\r")[2]

    return run


def test_build_search_add_and_info(folder, run, tmp_path):
    where = folder / "index"
    status, out, _ = run("build", folder / "docs", "--out", where, "--passage-tokens", 20)
    assert status == 0
    assert out.startswith("tiny: 4 passages, 48 of 1536 bytes a vector in memory, recall@10 1.000 ")
    assert out.endswith(f"saved to {where}\n")

    status, out, _ = run("search", where, "-q", "Who wrote Middlemarch?", "-k", 1)
    assert (status, out.splitlines()[1]) == (0, FILES["novels.txt"].split("\n\n")[0])
    assert out.splitlines()[0].endswith(f"{folder / 'docs' / 'novels.txt'}#0")

    (folder / "late.txt").write_text("Trams run in Basel.")
    status, out, _ = run("add", where, folder / "late.txt")
    assert (status, out.splitlines()[-1]) == (0, f"added 1 passages to {where}")
    assert run("search", where, "-q", "trams", "-k", 1)[1].endswith("Trams run in Basel.\n")

    status, out, _ = run("info", where)
    assert status == 0
    assert "passages   5\n" in out
    assert "checksums right" in out


def test_what_is_found_can_be_compressed(folder, run, capsysbinary, monkeypatch):
    run("build", folder / "docs", "--out", folder / "index")
    _, out, _ = run("search", folder / "index", "-q", "Zürich", "--format", "jsonl", "-k", 4)
    rows = [json.loads(line) for line in out.splitlines()]
    assert (rows[0]["id"], rows[0]["title"]) == ("see", "Seen")
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    (folder / "found.jsonl").write_text(out, encoding="utf-8")
    assert main(["compress", "-q", "Zürich", "--tokens", "12", "--method", "bm25", str(folder / "found.jsonl")]) == 0
    assert "Der Zürichsee" in capsysbinary.readouterr().out.decode()


def test_real_queries_measure(folder, run):
    (folder / "queries.txt").write_text("Who wrote Middlemarch?\nWhat do bees make?\nWo liegt der See?\n")
    _, out, _ = run("build", folder / "docs", "--out", folder / "i", "--queries", folder / "queries.txt")
    assert "queries of yours" in out


def test_pairs_tune(folder, run):
    pytest.importorskip("torch")
    rows = [json.dumps({"query": f"What of number {i}?", "id": "see"}) for i in range(40)]
    (folder / "pairs.jsonl").write_text("\n".join(rows))
    status, out, _ = run(
        "build", folder / "docs", "--out", folder / "i", "--preset", "tuned", "--pairs", folder / "pairs.jsonl"
    )
    assert status == 0
    assert "held-out pairs" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["build", "nowhere", "--out", "i"], "nowhere: no such file"),
        (["build", "docs", "--out", "docs"], "docs is not empty and holds no index"),
        (["build", "docs", "--out", "i", "--preset", "tinny"], "did you mean 'tiny'"),
        (["build", "docs", "--out", "i", "--preset", "tuned"], "pairs="),
        (
            ["build", "docs", "--out", "i", "--pairs", "docs/bees.md", "--preset", "tuned"],
            "--pairs docs/bees.md line 1",
        ),
        (["build", "docs", "--out", "i", "--passage-tokens", "0"], "1 token or more"),
        (["build", "docs", "--out", "i", "--model", "nobody/nothing"], "no model 'nobody/nothing'"),
        (["build", "docs"], "--out"),
        (["search", "i", "-q", "x"], "no index in i"),
        (["search", "docs/bees.md", "-q", "x"], "no index in docs/bees.md"),
        (["info", "docs"], "no index in docs"),
        (["add", "i", "docs"], "no index in i"),
        ([], "COMMAND"),
    ],
)
def test_what_does_not_work_says_why_in_one_line(folder, run, argv, message, monkeypatch):
    monkeypatch.chdir(folder)
    status, out, err = run(*argv)
    assert status in (1, 2)
    assert message in err
    assert (out, err.count("\n"), (folder / "i").exists()) == ("", 1, False)


def test_an_interrupted_build_leaves_nothing_and_an_interrupted_rebuild_the_old_index(folder):
    (folder / "many.jsonl").write_text(
        "".join(json.dumps({"text": f"Passage {i}: " + f"word{i} " * 120}) + "\n" for i in range(3000))
    )
    where = folder / "index"
    assert main(["index", "build", str(folder / "docs"), "--out", str(where)]) == 0
    command = [sys.executable, "-m", "ctxcomp", "index", "build", str(folder / "many.jsonl"), "--out", str(where)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        seen = b""
        while b"indexing" not in seen:  # the bar, a second into the encoding
            seen += process.stderr.read(1)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        error = process.stderr.read().decode()
        assert process.wait(60) == 130
    assert "interrupted" in error
    assert len(Index.load(where)) == 3
    assert len(list(where.iterdir())) == 2
