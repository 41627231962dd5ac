"""What the index's README shows is run."""

import re
import shlex

import pytest

pytest.importorskip("faiss")

from ctxcomp.cli import main


@pytest.fixture
def readme(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/one.txt").write_text("George Eliot wrote Middlemarch. It rained in 1871.")
    (tmp_path / "more.txt").write_text("Bees make honey.")
    return (root / "ctxcomp/index/README.md").read_text(encoding="utf-8")


def blocks(readme, language):
    return re.findall(rf"```{language}\n(.*?)```", readme, re.DOTALL)


def test_python_blocks_run(readme, capsys):
    found = blocks(readme, "python")
    assert len(found) == 1
    for block in found:
        exec(compile(block, "README.md", "exec"), {})
        assert "George Eliot" in capsys.readouterr().out


def test_command_lines_run(readme, capsysbinary):
    lines = [line for block in blocks(readme, "sh") for line in block.splitlines()]
    assert len(lines) == 4
    for line in lines:
        assert main(shlex.split(line)[1:]) == 0, line
        assert capsysbinary.readouterr().out.strip()
