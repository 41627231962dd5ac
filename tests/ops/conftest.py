"""Kernels are tested compiled where there is a GPU, interpreted where there is none."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def device(monkeypatch) -> str:
    """Where kernels run: "cuda", or "cpu" with Triton's interpreter switched on for the test alone."""
    if torch.cuda.is_available():
        return "cuda"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return "cpu"


@pytest.fixture
def poison():
    """Fresh memory holds NaN."""
    from ctxcomp_kernels.testing import poisoned

    with poisoned():
        yield
