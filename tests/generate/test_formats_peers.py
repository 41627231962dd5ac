"""Checkpoints to and from the real packages, each in an environment of its own.

CTXCOMP_COMPRESSED_TENSORS_PYTHON, CTXCOMP_COMPRESSED_TENSORS_019_PYTHON and CTXCOMP_GPTQMODEL_PYTHON name their
Pythons. compressed-tensors 0.20 cannot load asymmetric checkpoints, its own neither (transformers 5.23 finds their zero
points of another shape than it expects): 0.19, as llm-compressor 0.14 brings it, reads those.
"""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from generate.format_peers import IDS
from generate.models import tiny_llama
from generate.rounded import rounded, weights, words_tokenizer
from safetensors.torch import load_file

from ctxcomp.generate.formats import load_quantized, save_quantized

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parent / "format_peers.py"
NEWEST = ("CTXCOMP_COMPRESSED_TENSORS_PYTHON", "compressed-tensors")
OLDER = ("CTXCOMP_COMPRESSED_TENSORS_019_PYTHON", "compressed-tensors")
GPTQMODEL = ("CTXCOMP_GPTQMODEL_PYTHON", "gptqmodel")


def run(peer: tuple[str, str], what: str, *arguments: Path) -> None:
    variable, package = peer
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no Python with {package}")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "HF_HUB_OFFLINE": "1",
        "GPTQMODEL_CPU_WORKERS": "2",
    }
    command = [python, str(SCRIPT), what, package, *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, cwd=arguments[-1].parent, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("peer", "name", "bits", "symmetric"),
    [
        (NEWEST, "compressed-tensors", 4, True),
        (OLDER, "compressed-tensors", 4, False),
        (OLDER, "compressed-tensors", 3, False),
        (GPTQMODEL, "gptq", 4, True),
        (GPTQMODEL, "gptq_v2", 3, False),
        (GPTQMODEL, "awq", 4, False),
    ],
)
def test_they_read_ours(peer: tuple[str, str], name: str, bits: int, symmetric: bool, tmp_path: Path) -> None:
    model = rounded(tiny_llama(dtype=torch.float16), bits=bits, symmetric=symmetric)
    save_quantized(model, words_tokenizer(), tmp_path / "ours", format=name)
    run(peer, "read", tmp_path / "ours", tmp_path / "theirs.safetensors")
    theirs = load_file(tmp_path / "theirs.safetensors")
    ours = weights(model, torch.float16)
    assert set(ours) <= set(theirs)
    for layer, weight in ours.items():
        assert torch.equal(theirs[layer].half(), weight), layer
    with torch.no_grad():
        assert torch.allclose(theirs["logits"].float(), model(IDS).logits.float(), atol=2e-2)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("peer", "reader"), [(NEWEST, OLDER), (GPTQMODEL, GPTQMODEL)])
def test_we_read_theirs(peer: tuple[str, str], reader: tuple[str, str], tmp_path: Path) -> None:
    """compressed-tensors asymmetric; GPTQModel 4 bits with act-order."""
    tiny_llama(dtype=torch.float16).save_pretrained(tmp_path / "dense")
    words_tokenizer().save_pretrained(tmp_path / "dense")
    run(peer, "write", tmp_path / "dense", tmp_path / "theirs")
    run(reader, "read", tmp_path / "theirs", tmp_path / "theirs.safetensors")
    theirs = load_file(tmp_path / "theirs.safetensors")
    model = load_quantized(tmp_path / "theirs", device="cpu", dtype=torch.float16)
    ours = weights(model, torch.float16)
    assert len(ours) == 14
    for layer, weight in ours.items():
        assert torch.equal(theirs[layer].half(), weight), layer
    with torch.no_grad():
        assert torch.allclose(theirs["logits"].float(), model(IDS).logits.float(), atol=2e-2)
