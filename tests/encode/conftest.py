"""Tiny checkpoints that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import tiny_bert, tiny_contriever, tiny_xlmr


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def xlmr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_xlmr(tmp_path_factory.mktemp("xlmr"), labels=3)


@pytest.fixture(scope="session")
def contriever(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_contriever(tmp_path_factory.mktemp("contriever"))
