"""Every test runs offline; shared data is used where it lies beside the checkout."""

from __future__ import annotations

import os
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"

os.environ["HF_HUB_OFFLINE"] = "1"
# Tiny models gain nothing from more threads, which wait for each other where the machine is busy: 12 s became 90.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if find_spec("triton") and not find_library("cuda"):
    # Without a GPU kernels are interpreted, and parts of Triton's language decide at their import whether they are.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        import triton.language  # noqa: F401
if (SHARED / "tiktoken").is_dir():
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(SHARED / "tiktoken"))

# Encoders and tokenizers load inside the first example, which is no sign of a slow test.
# The same examples in every run: what fails was broken by the change. HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ctxcomp", settings.get_profile("explore"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ctxcomp"))


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the shared data folder is not beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def vocabularies() -> None:
    from ctxcomp.counting import is_cached

    if not is_cached("o200k_base") or not is_cached("cl100k_base"):
        pytest.skip("o200k_base and cl100k_base are not in tiktoken's cache: set TIKTOKEN_CACHE_DIR")
