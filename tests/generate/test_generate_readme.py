"""What the generator's README shows is run, on a tiny model."""

import re
import shlex

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_chat import tiny_chat

from ctxcomp.cli import main


@pytest.fixture
def readme(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_chat(tmp_path / "path/to/model")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/one.txt").write_text("George Eliot wrote Middlemarch. It rained in 1871. " * 80)
    return (root / "ctxcomp/generate/README.md").read_text(encoding="utf-8")


def blocks(readme, language):
    return re.findall(rf"```{language}\n(.*?)```", readme, re.DOTALL)


def test_python_blocks_run(readme, capsys):
    found = blocks(readme, "python")
    assert len(found) == 3
    for block in found:
        exec(compile(block, "README.md", "exec"), {})
        assert capsys.readouterr().out.strip()


def test_command_lines_run(readme, capsysbinary):
    lines = [line for block in blocks(readme, "sh") for line in block.splitlines()]
    assert len(lines) == 3
    for line in lines:
        assert main(shlex.split(line)[1:]) == 0, line
        assert capsysbinary.readouterr().out.strip()
