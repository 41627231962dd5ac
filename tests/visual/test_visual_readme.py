"""What the README shows runs, on a tiny model; the example runs and says what it is; importing stays cheap."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from visual.families import model_of, prompt

from ctxcomp.visual import METHODS, families


@pytest.fixture
def readme(root):
    return (root / "ctxcomp/visual/README.md").read_text(encoding="utf-8")


def test_readme_blocks_run(readme, capsys):
    import torch
    from PIL import Image

    inputs, _ = prompt("qwen2_vl")
    names = {
        "model": model_of("qwen2_vl"), "inputs": inputs, "scores": [2.0, 1.0],
        "images": [Image.new("RGB", (60, 80), "white")] * 2, "maps": [torch.rand(4, 3), torch.rand(2, 5)],
    }  # fmt: skip
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), dict(names))
        assert capsys.readouterr().out.strip()


def test_readme_names_every_method_and_family(readme):
    assert all(f"`{name}`" in readme for name in METHODS)
    assert all(f"`{name}`" in readme for name in families())


def test_the_example_shows_mechanics_only(root, tmp_path):
    pytest.importorskip("PIL")
    done = subprocess.run(
        [sys.executable, str(root / "examples/visual_rag.py"), str(tmp_path)],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the weights are random" in done.stdout
    assert re.search(r"prompt of 202 -> 58 tokens", done.stdout)
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_importing_brings_no_torch(root):
    code = "import sys, ctxcomp.visual; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
