"""Checkpoints of tiny vision-language models, written once a session, and the generators on them."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    return tmp_path_factory.mktemp("seeing")


@pytest.fixture(scope="session")
def generator(checkpoints):
    """``generator("qwen2_vl")``: the family's generator, loaded once."""
    from visual.checkpoints import saved

    from ctxcomp.generate import Generator

    found = {}

    def of(name):
        if name not in found:
            found[name] = Generator.from_pretrained(saved(name, checkpoints), device="cpu")
        return found[name]

    return of
