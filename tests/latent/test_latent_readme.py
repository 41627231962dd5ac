"""What the README shows is run, on a tiny model and an untrained projector."""

from __future__ import annotations

import re

import pytest
from tiny_chat import tiny_chat

from ctxcomp.cli import main


def test_python_blocks_run(root, tmp_path, monkeypatch, capsys):
    from ctxcomp.generate import Generator
    from ctxcomp.latent.binding import generator_id
    from ctxcomp.latent.networks import ProjectorNetwork
    from ctxcomp.latent.weights import save_projector

    monkeypatch.chdir(tmp_path)
    generator = Generator.from_pretrained(tiny_chat(tmp_path / "path/to/model"))
    path = tmp_path / "projector.safetensors"
    save_projector(ProjectorNetwork(384, 32), path, "minilm", generator_id(generator.model))
    text = (root / "ctxcomp/latent/README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 1
    exec(compile(blocks[0], "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "(3, 32)" in shown
    assert "ladder" in shown
    assert len(list((tmp_path / "vectors").iterdir())) == 3


def test_the_command_line_lists_them_and_says_what_they_need(tmp_path, capsysbinary):
    assert main(["list"]) == 0
    shown = capsysbinary.readouterr().out.decode()
    (tmp_path / "a.txt").write_text("Some text. More text.")
    for name in ("projector", "memory_slots", "ladder"):
        assert name in shown
        assert main(["compress", str(tmp_path / "a.txt"), "--keep", "0.5", "--method", name]) == 2
        assert "needs a local generator" in capsysbinary.readouterr().err.decode()


@pytest.mark.parametrize("name", ["Ladder", "MemorySlots", "Projector", "read_latents", "save_latents"])
def test_the_package_offers_its_names(name):
    import ctxcomp.latent

    assert getattr(ctxcomp.latent, name).__name__ == name
    assert name in dir(ctxcomp.latent)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ctxcomp.latent.nothing
