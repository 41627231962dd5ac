"""Dispatch: who decides, what it says, and what stays unimported; and the tools the kernel tests rest on."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch

from ctxcomp.errors import InputError
from ctxcomp_kernels import dispatch
from ctxcomp_kernels.testing import assert_close, poisoned

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("CTXCOMP_KERNELS", raising=False)
    dispatch._say.cache_clear()


def test_the_device_decides(monkeypatch):
    assert dispatch.choose("op", CUDA) == "triton"
    assert dispatch.choose("op", CPU) == "reference"
    assert dispatch.choose("op", CPU, torch_op=True) == "torch"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert dispatch.choose("op", CPU) == "triton"


def test_the_variable_wins_over_the_device_and_the_argument_over_both(monkeypatch):
    monkeypatch.setenv("CTXCOMP_KERNELS", "reference")
    assert dispatch.choose("op", CUDA) == "reference"
    assert dispatch.choose("op", CUDA, backend="triton") == "triton"
    monkeypatch.setenv("CTXCOMP_KERNELS", "triton")  # meant for all operations, so it yields where it cannot
    assert dispatch.choose("op", CPU) == "reference"
    monkeypatch.setenv("CTXCOMP_KERNELS", "fast")
    with pytest.raises(InputError, match="triton, torch, reference, got 'fast'"):
        dispatch.choose("op", CPU)


def test_an_argument_that_cannot_be_met_is_an_error():
    with pytest.raises(InputError, match="needs the package triton and CUDA tensors"):
        dispatch.choose("op", CPU, backend="triton")
    with pytest.raises(InputError, match="no operator of torch fits"):
        dispatch.choose("op", CPU, backend="torch")


def test_the_choice_is_said_once_and_the_slow_one_as_a_warning(caplog):
    with caplog.at_level(logging.INFO, logger="ctxcomp_kernels.dispatch"):
        for _ in range(3):
            dispatch.choose("op", CPU)
            dispatch.choose("quiet", CPU, warn=False)
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "op on cpu runs on the plain torch reference"),
        ("INFO", "quiet on cpu runs on the plain torch reference"),
    ]


def test_importing_the_package_imports_neither_torch_nor_triton(root):
    code = "import sys, ctxcomp_kernels, ctxcomp_kernels.dispatch; print({'torch', 'triton'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root / "kernels", capture_output=True, text=True, check=True,
        env={"PYTHONPATH": f"{root}:{root / 'kernels'}"},
    )  # fmt: skip
    assert done.stdout.strip() == "set()"


def test_poisoned_memory_shows_and_heals():
    with poisoned():
        assert torch.empty(2).isnan().all()
        assert torch.zeros(1).new_empty(3).isnan().all()
        assert (torch.empty(2, dtype=torch.int32) == -1).all()
        assert (torch.empty_like(torch.zeros(2, dtype=torch.uint8)) == 255).all()
    assert torch.empty.__name__ == "empty"
    assert not hasattr(torch.empty, "__wrapped__")


def test_assert_close_fails_on_what_it_should():
    one = torch.ones(4)
    assert_close("same", one, one.clone(), 0.0)
    with pytest.raises(AssertionError, match="relative RMSE"):
        assert_close("off", one, one * 1.01, 1e-3)
    with pytest.raises(AssertionError, match="1 values of actual are not finite"):
        assert_close("nan", one, torch.tensor([1, 1, 1, float("nan")]), 1.0)
    with pytest.raises(AssertionError, match=r"got torch\.float16"):
        assert_close("dtype", one, one.half(), 1.0)


def test_the_container_of_the_kernels_is_no_package(root):
    assert not (root / "kernels" / "__init__.py").exists()
    assert not (root / "kernels" / "bench" / "__init__.py").exists()
