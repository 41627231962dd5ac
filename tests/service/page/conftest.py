"""A real Chromium for the page at /."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

playwright = pytest.importorskip("playwright.sync_api")

NAMES = ("chromium", "chromium-browser", "google-chrome")
DESKTOP = {"width": 1280, "height": 860}


@pytest.fixture(scope="module")
def url(live_server) -> str:
    return live_server()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(NAMES)} is on the path")
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser) -> Iterator:
    """`open_page(url)` -> a page; afterwards: no script error, nothing against the policy, nothing from elsewhere."""
    contexts, complaints = [], []

    def visit(url: str, *, wait=True, **options):
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        contexts.append(context)
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: complaints.append(line.text) if _matters(line) else None)
        page.on("request", lambda r: None if r.url.startswith((url, "data:")) else complaints.append(r.url))
        page.goto(url)
        if wait:
            page.wait_for_selector(".kept .unit")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []


def _matters(line) -> bool:
    # A refused request, which tests cause on purpose, is a line in the console as well.
    return line.type in ("error", "warning") and not line.text.startswith("Failed to load resource")
