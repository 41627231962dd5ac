"""Everything the README shows is run."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from tiny_chat import tiny_chat

from ctxcomp.cli import main

REPORT = "George Eliot wrote Middlemarch. It rained in 1871. " * 20


@pytest.fixture
def readme(root) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


def blocks(readme: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", readme, re.DOTALL)


def test_python_blocks_run(readme, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = blocks(readme, "python")
    assert len(found) >= 2
    for block in found:
        exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "Middlemarch is a novel by George Eliot." in printed
    assert "Span(passage=0" in printed


def test_command_lines_run(readme, tmp_path, monkeypatch, capsysbinary):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reports").mkdir()
    for name in ("notes.md", "report.txt", "reports/one.txt"):
        (tmp_path / name).write_text(REPORT)
    (tmp_path / "passages.jsonl").write_text('{"text": "George Eliot wrote it.", "id": "1", "score": 2.5}\n')
    (tmp_path / "questions.jsonl").write_text(
        json.dumps({"question": "Who wrote it?", "answers": ["George Eliot"], "passages": [REPORT[:300], "Rain fell."]})
    )
    pytest.importorskip("torch")
    tiny_chat(tmp_path / "path/to/model", hidden_size=128)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/one.txt").write_text(REPORT * 5)
    book = pytest.importorskip("openpyxl").Workbook()
    for row in [("Town", 1993, 1994), *((f"Town {i}", i * 7, i * 11) for i in range(90))]:
        book.active.append(row)
    book.save(tmp_path / "book.xlsx")
    lines = [line for block in blocks(readme, "sh") for line in block.splitlines() if line.startswith("ctxcomp ")]
    assert len(lines) >= 5
    for line in lines:
        words = shlex.split(line.split(" #")[0].replace("- < report.txt", "report.txt"))
        assert main(words[1:]) == 0, line
        assert capsysbinary.readouterr().out.strip()


def test_make_targets_exist(readme, root):
    makefile = (root / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", readme):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_method_has_its_row(readme):
    from ctxcomp import methods

    rows = re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE)
    assert set(methods()) <= set(rows)


def test_files_that_are_named_exist(readme, root):
    for name in re.findall(r"`([\w/]+\.(?:md|py|csv|jsonl))`", readme):
        assert (root / name).exists(), name
