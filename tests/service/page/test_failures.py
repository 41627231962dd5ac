"""When something is wrong, the page says what, and what to do."""

from __future__ import annotations

import re

import pytest
from page_helpers import settle, texts

auth = pytest.importorskip("ctxcomp_service.auth")
expect = pytest.importorskip("playwright.sync_api").expect

KEY = "ctxc_a-key-for-the-tests"
FAULTS = [
    ({"status": 500, "body": "<b>boom</b>"}, "status 500"),
    ({"status": 413, "json": {"error": {"message": "at most 5 <b>passages</b>"}}}, "at most 5 <b>passages</b>"),
    ({"status": 200, "body": "no JSON"}, "not JSON"),
    ({"status": 200, "json": {"stats": None}}, "could not be read"),
    (None, "cannot be reached"),
]


def test_a_key_is_needed(open_page, live_server, browser):
    keys = [{"id": "k", "tenant": "t", "sha256": auth.hash_key(KEY)}]
    page = open_page(live_server(keys=keys), wait=False)
    problem = page.locator(".problem:visible")
    expect(problem).to_contain_text("key")
    page.click("text=Enter a key")
    page.keyboard.type("wrong key")
    page.keyboard.press("Enter")
    expect(page.locator("#key-note")).to_contain_text("without spaces")
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    expect(problem).to_contain_text("not known")
    page.click("text=Enter a key")
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector(".kept .unit")
    expect(problem).to_have_count(0)
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert KEY not in page.content()
    assert "$CTXCOMP_API_KEY" in page.text_content("#code")
    page.reload()
    page.wait_for_selector(".kept .unit")
    page.click("summary")
    page.click("#key-forget")
    expect(problem).to_contain_text("key")
    assert page.evaluate("sessionStorage.length") == 0


def test_rate_limited(open_page, live_server):
    limited = live_server(defaults={"requests_per_minute": 30, "tokens_per_minute": 700})
    page = open_page(limited)
    shown = texts(page, ".kept .unit")
    for keep in ("Home", "End"):
        page.focus("#keep")
        page.keyboard.press(keep)
        page.wait_for_timeout(200)
    problem = page.locator(".problem:visible")
    expect(problem).to_contain_text(re.compile(r"by itself in \d+ s"))
    assert texts(page, ".kept .unit") == shown  # the last answer, and no guess that looks like one
    assert page.locator(".stale").count() == 1


def answering(fault):
    return lambda route, _request: route.fulfill(**fault) if fault else route.abort()


def test_failures_say_what_to_do(open_page, url):
    page = open_page(url)
    page.check("#compare")
    page.wait_for_selector(".agreement")
    settle(page)
    shown = texts(page, ".kept .unit")
    problem = page.locator(".side .problem").first
    for fault, said in FAULTS:
        page.route("**/v1/compress", answering(fault))
        page.press("#keep", "ArrowLeft")
        expect(problem).to_contain_text(said)
        assert page.locator(".problem b").count() == 0
        expect(page.locator(".waiting")).to_have_count(0)
        assert texts(page, ".kept .unit") == shown
        page.unroute("**/v1/compress")
    page.click("text=Try again >> nth=0")
    settle(page)
    assert problem.is_hidden()
