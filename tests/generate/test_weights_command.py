"""``ctxcomp quantize``, from a checkpoint on disk to one that loads."""

import json
import subprocess
import sys

import pytest
import torch
from tiny_chat import tiny_chat
from transformers import AutoModelForCausalLM

from ctxcomp.cli import main
from ctxcomp.generate.formats import load_quantized

TEXT = "the quick brown fox jumps over the lazy dog. " * 40


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_chat(tmp_path_factory.mktemp("model"), max_positions=512)


@pytest.fixture
def documents(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text(TEXT)
    return tmp_path / "docs"


def run(checkpoint, out, *more):
    return main(["quantize", str(checkpoint), "--out", str(out), "--group-size", "16", "--device", "cpu", *more])


@pytest.mark.parametrize("form", ["native", "compressed-tensors"])
def test_a_checkpoint_becomes_a_smaller_one(checkpoint, documents, tmp_path, capsys, form):
    out = tmp_path / "small"
    given = ["--calibration", str(documents), "--held-out", str(documents), "--tokens", "64", "--format", form]
    assert run(checkpoint, out, "--method", "awq", *given, "--set", "grid=4") == 0
    printed = capsys.readouterr().out
    assert "model.layers.1.mlp.down_proj" in printed
    assert "mean KL" in printed
    report = json.loads((out / "quantization_report.json").read_text())
    assert report["settings"]["grid"] == 4
    ids = torch.arange(40)[None]
    with torch.no_grad():
        small = load_quantized(out, device="cpu", dtype="float32")(ids).logits
        large = AutoModelForCausalLM.from_pretrained(checkpoint)(ids).logits
    assert 0 < float((small - large).norm() / large.norm()) < 0.5


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--method", "awq"], "calibration"),
        (["--method", "rtn", "--bits", "1"], "2 to 8"),
        (["--method", "rtn", "--set", "grid"], "FIELD=VALUE"),
        (["--method", "rtn", "--format", "awq", "--eora-rank", "4"], "native"),
        (["--method", "rtn", "--format", "awq", "--bits", "3"], "AWQ holds 4 bits"),
        (["--method", "best"], "best"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_and_writes_nothing(checkpoint, tmp_path, capsys, more, says):
    out = tmp_path / "small"
    try:
        status = run(checkpoint, out, *more)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    assert says in capsys.readouterr().err
    assert not out.exists()


def test_it_does_not_write_over_what_is_there(checkpoint, tmp_path, capsys):
    (tmp_path / "kept").write_text("")
    assert run(checkpoint, tmp_path, "--method", "rtn") == 2
    assert "not an empty directory" in capsys.readouterr().err


def test_the_command_line_imports_no_torch_before_it_must():
    code = "import sys, ctxcomp.cli; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
