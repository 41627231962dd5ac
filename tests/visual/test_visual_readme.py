"""What the README shows runs, on a tiny model; the example runs and says what it is; importing stays cheap."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from visual.families import model_of, prompt

from ctxcomp.cli import main
from ctxcomp.visual import METHODS, families


@pytest.fixture
def readme(root):
    return (root / "ctxcomp/visual/README.md").read_text(encoding="utf-8")


@pytest.fixture
def workplace(checkpoints, tmp_path, monkeypatch):
    """A folder as the README finds it: a checkpoint and two pages."""
    image = pytest.importorskip("PIL.Image")
    from visual.checkpoints import saved

    (tmp_path / "path/to").mkdir(parents=True)
    (tmp_path / "path/to/model").symlink_to(saved("qwen2_vl", checkpoints), target_is_directory=True)
    for name in ("page1.png", "page2.jpg"):
        image.linear_gradient("L").save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_readme_blocks_run(readme, workplace, capsys):
    import torch
    from PIL import Image

    inputs, _ = prompt("qwen2_vl")
    names = {
        "model": model_of("qwen2_vl"), "inputs": inputs, "scores": [2.0, 1.0],
        "images": [Image.new("RGB", (60, 80), "white")] * 2, "maps": [torch.rand(4, 3), torch.rand(2, 5)],
    }  # fmt: skip
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
        assert capsys.readouterr().out.strip()
    assert (workplace / "kept.png").is_file()


def test_readme_command_lines_run(readme, workplace, capsysbinary):
    (line,) = re.findall(r"```sh\n(.*?)\n```", readme, re.DOTALL)
    assert main(shlex.split(line)[1:]) == 0
    assert b"prefill measured" in capsysbinary.readouterr().out
    assert len(list((workplace / "kept").iterdir())) == 2


def test_readme_names_every_method_and_family(readme):
    assert all(f"`{name}`" in readme for name in METHODS)
    assert all(f"`{name}`" in readme for name in families())


@pytest.fixture
def example(root, monkeypatch, capsys):
    """Runs the example as a script; what it prints, and the tokens of each page before and after."""
    pytest.importorskip("PIL")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["visual_rag.py", *map(str, arguments)])
        runpy.run_path(str(root / "examples/visual_rag.py"), run_name="__main__")
        printed = capsys.readouterr().out
        counts = re.findall(r"^(\S+): (\d+) -> (\d+) visual tokens", printed, re.MULTILINE)
        return printed, {name: (int(before), int(after)) for name, before, after in counts}

    return run


def test_the_example_draws_its_own_pages(example, tmp_path):
    printed, counts = example("--pages", tmp_path, "--out", tmp_path)
    assert "asked for mill" in printed
    assert "the weights are random" in printed
    assert "prefill measured" in printed
    assert counts["mill"][1] > max(after for name, (_, after) in counts.items() if name != "mill")
    assert len(list(tmp_path.glob("*.png"))) == len(counts)


def test_the_example_finds_a_receipt(root, example):
    """The page that holds the total is retrieved first and keeps more than all others; answers are not judged."""
    receipts = root.parent / "shared/data/images"
    if not (receipts / "fields.json").is_file():
        pytest.skip("no receipts in ../shared/data/images")
    printed, counts = example()
    assert "What is the total of INDAH GIFT & HOME DECO?" in printed
    assert next(iter(counts)) == "001.jpg"
    assert len(counts) == 3
    assert counts["001.jpg"][1] > 0.5 * counts["001.jpg"][0]
    assert sum(after for _, after in counts.values()) == int(0.3 * sum(before for before, _ in counts.values()))
    assert min(after for _, after in counts.values()) >= 1


def test_importing_brings_no_torch(root):
    code = "import sys, ctxcomp.visual; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
