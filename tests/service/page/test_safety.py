"""Hostile text, code that is run, headers, and much text."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from page_helpers import HOSTILE, HOSTILE_QUERY, ask, fill, named, settle, texts

httpx = pytest.importorskip("httpx")
service = pytest.importorskip("ctxcomp_service")
expect = pytest.importorskip("playwright.sync_api").expect

STATIC = Path(service.__file__).parent / "static"


def test_files_and_headers(url):
    with httpx.Client(base_url=url) as client:
        check_files(client)


def check_files(client):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    for name in ("x-content-type-options", "referrer-policy", "cross-origin-opener-policy", "etag", "cache-control"):
        assert name in page.headers
    assert not re.search(r"<script(?! type=\"module\" src=)|<style|\sstyle=|\son\w+=|javascript:", page.text)
    loaded = set(re.findall(r'(?:src|href)="static/([^"]+)"', page.text))
    for script in STATIC.glob("*.js"):
        loaded |= set(re.findall(r'from "\./([^"]+)"', script.read_text()))
    assert loaded == {file.name for file in STATIC.iterdir()} - {"index.html"}
    for name in loaded:
        file = client.get(f"/static/{name}")
        assert file.content == (STATIC / name).read_bytes()
        assert file.headers["content-security-policy"] == policy
        again = client.get(f"/static/{name}", headers={"If-None-Match": file.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert client.head("/").status_code == 200
    for bad in ("../app.py", "..%2fapp.py", "%2e%2e/app.py", "nothing.js", "", "%00"):
        assert client.get(f"/static/{bad}").status_code == 404


def test_nothing_parses_markup():
    for script in STATIC.glob("*.js"):
        source = script.read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function", source
        )


def test_hostile_text_stays_text(open_page, url):
    page = open_page(url)
    fill(page, HOSTILE, HOSTILE_QUERY)
    name = '<img src=x onerror="window.pwned=5">.jsonl'
    row = {
        "text": "<script>window.pwned=6</script> wrote it.",
        "title": "<svg onload=window.pwned=7>\u202etitle",
        "__proto__": 1,
    }
    page.set_input_files("#files", [named(name, json.dumps(row).encode())])
    expect(page.locator(".files li")).to_have_count(1)
    page.check("#compare")
    settle(page)
    page.locator(".unit").last.hover()
    assert page.evaluate("window.pwned") is None
    assert page.locator("main :is(script, img, svg, b)").count() == 0
    shown = "".join(texts(page, ".cell:first-child .text"))
    assert "<script>window.pwned = 1</script>" in shown
    assert "A NUL ␀ byte" in shown
    assert page.locator(".files bdi").text_content() == name
    assert page.locator(".passage h3 bdi").last.text_content() == row["title"]
    # An override ends with its passage, and does not reach the page's own words.
    isolated = "node => getComputedStyle(node).unicodeBidi"
    assert page.eval_on_selector(".unit", isolated) == "isolate"
    assert page.eval_on_selector(".passage h3 bdi", isolated) == "isolate"
    assert "\u202e" not in page.text_content("#code")


def test_snippets_run(open_page, url, tmp_path):
    page = open_page(url, permissions=["clipboard-read", "clipboard-write"])
    fill(page, HOSTILE, HOSTILE_QUERY)
    # A textarea turns what it cannot hold into something else; what it holds is what counts.
    held = page.input_value("#pasted")
    wanted = ask(url, held, page.input_value("#query"), 0.15)["text"]
    assert wanted
    code = {}
    for form in ("curl", "python", "library"):
        page.check(f"[name=form][value={form}]")
        page.click("#copy-code")
        expect(page.locator("#copy-code")).to_have_text("Copied")
        code[form] = page.evaluate("navigator.clipboard.readText()")
        assert code[form] == page.text_content("#code")
        assert not re.search(r"[\u202a-\u202e\u2066-\u2069\x00-\x09\x0b-\x1f]", code[form])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"}

    def run(*command: str, script: str) -> str:
        done = subprocess.run(
            command, input=script.encode(), capture_output=True, cwd=tmp_path, env=environment, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    assert run(sys.executable, "-", script=code["python"] + code["library"]) == f"{wanted}\n" * 2
    if shutil.which("curl"):
        for shell in filter(shutil.which, ("sh", "bash")):
            assert json.loads(run(shell, script=code["curl"]))["text"] == wanted
    assert list(tmp_path.iterdir()) == []


def test_a_megabyte(open_page, url):
    page = open_page(url)
    sentence = "Somebody number {} wrote a sentence about the weather in the north, and it was long. "
    text = "".join(sentence.format(i) + ("\n\n" if i % 9 == 8 else "") for i in range(12_000))
    assert len(text) > 1_000_000
    page.evaluate(
        """() => {
          window.blocked = 0;
          new PerformanceObserver((list) => {
            for (const task of list.getEntries()) window.blocked = Math.max(window.blocked, task.duration);
          }).observe({ type: "longtask" });
        }"""
    )
    page.set_input_files("#files", [named("big.txt", text.encode())])
    expect(page.locator(".files li")).to_have_count(1)
    settle(page)
    assert "The page shows the beginning only" in page.text_content("#more")
    assert 1000 < page.locator(".unit").count() <= 1500
    page.click("text=Show more")
    assert 1500 < page.locator(".unit").count() <= 3000
    assert len(page.text_content("#code")) < 10_000
    assert page.evaluate("window.blocked") < 1500  # ms, on a busy machine
    page.click("text=Remove")
    page.fill("#pasted", "endless " * 50_000)  # one sentence
    settle(page)
    assert len(page.text_content("#passages")) < 110_000
