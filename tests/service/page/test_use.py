"""What the page does."""

from __future__ import annotations

import re

import pytest
from page_helpers import Held, ask, fill, settle, texts

httpx = pytest.importorskip("httpx")
expect = pytest.importorskip("playwright.sync_api").expect


def test_first_visit_shows_the_servers_answer(open_page, url):
    page = open_page(url)
    settle(page)
    answer = ask(url, page.input_value("#pasted"), page.input_value("#query"), 0.15)
    stats = answer["stats"]
    assert page.text_content("[data-figure=tokens]") == f"{stats['tokens_in']} → {stats['tokens_out']}"
    assert f"at most {int(stats['tokens_in'] * 0.15)} of {stats['tokens_in']} tokens" in page.text_content(
        "#keep-value"
    )
    assert f"kept {stats['tokens_out']} of {stats['tokens_in']} tokens" in page.text_content("#live")
    passages = page.input_value("#pasted").split("\n\n---\n\n")
    kept = [passages[s["passage"]][s["start"] : s["end"]] for s in answer["spans"]]
    assert kept
    assert texts(page, ".kept .unit") == kept
    assert page.locator(".unit").count() == len(answer["units"])
    offered = httpx.get(f"{url}/v1/methods").json()["methods"]
    assert texts(page, ".side option") == [method["name"] for method in offered]
    assert "saved" not in page.url  # nothing of the text goes into the address
    page.fill("#price", "1000000")
    saved = (stats["tokens_in"] - stats["tokens_out"]) * 1000
    assert page.text_content("[data-figure=cost]") == f"${saved:.2f}"


def test_slider_is_immediate_and_asks_little(open_page, url):
    page = open_page(url)
    settle(page)
    before = texts(page, ".kept .unit")
    held = Held(page)
    page.focus("#keep")
    for _ in range(15):
        page.keyboard.press("ArrowLeft")
    # The server has not answered: this is what the scores promise, and it is marked as out of date.
    guessed = texts(page, ".kept .unit")
    assert 0 < len(guessed) < len(before)
    assert page.locator(".stale").count() == 1
    expect(page.locator(".waiting")).to_have_count(1)
    page.wait_for_timeout(200)
    assert len(held.routes) < 8
    assert held.asked()[-1]["budget"] == {"keep": 0.05}
    held.release()
    settle(page)
    final = texts(page, ".kept .unit")
    answer = ask(url, page.input_value("#pasted"), page.input_value("#query"), 0.05)
    assert len(final) == len(answer["spans"])
    page.unroute("**/v1/compress")
    for press, keep in (("Home", "0.01"), ("End", "1")):
        page.keyboard.press(press)
        assert page.text_content("#keep-value").startswith(f"{keep} ·")
    settle(page)
    assert page.locator(".dropped .unit").count() == 0


def test_an_older_answer_is_never_shown(open_page, url):
    page = open_page(url)
    page.fill("#keep", "44")  # 0.2
    fill(page, "Ann wrote it. Bob read it. Tom sang it. The rain fell.", "who read")
    assert texts(page, ".kept .unit") == ["Bob read it."]
    held = Held(page)
    page.fill("#query", "who sang")
    expect(page.locator(".waiting")).to_have_count(1)
    page.fill("#query", "who wrote")
    expect(page.locator("#code")).to_contain_text('"who wrote"')
    page.wait_for_timeout(50)
    assert [body["query"] for body in held.asked()] == ["who sang", "who wrote"]
    for route in reversed(held.routes):
        route.continue_()
    settle(page)
    page.wait_for_timeout(200)
    assert texts(page, ".kept .unit") == ["Ann wrote it."]


def test_two_methods_side_by_side(open_page, url):
    page = open_page(url)
    page.check("#compare")
    page.wait_for_selector(".agreement")
    page.locator(".side select").nth(1).select_option("random")
    settle(page)
    assert page.locator(".side").count() == 2
    shares = [float(n) for n in re.findall(r"([\d.]+) %", page.text_content(".agreement"))]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    columns = page.evaluate(
        """() => [0, 1].map((side) => [...document.querySelectorAll(".passage")].map((passage) => {
          const cell = passage.querySelectorAll(".cell")[side];
          const all = (selector) => [...cell.querySelectorAll(selector)].map((node) => node.textContent);
          return { kept: all(".kept .unit").join(" "), only: all(".text .only") };
        }))"""
    )
    only = 0
    for mine, other in zip(columns, columns[::-1], strict=True):
        for here, there in zip(mine, other, strict=True):
            only += len(here["only"])
            assert all(text not in there["kept"] and text in here["kept"] for text in here["only"])
    assert only
    # The mark is not colour alone.
    assert "underline" in page.eval_on_selector(".text .only", "node => getComputedStyle(node).textDecorationLine")
    page.locator(".text .only").first.hover()
    assert "not by the other method" in page.text_content("#tip")
    page.uncheck("#compare")
    assert page.locator(".side").count() == 1
    assert page.locator(".text .only").count() == 0


def test_code_points_are_not_utf16(open_page, url):
    page = open_page(url)
    text = "😀😀 Emoji first 👩‍👩‍👧. Anna wrote the 𝕓𝕠𝕠𝕜 🎉 here. 猫は魚を食べた。安娜写了这本书。 Otto 🚀 sang. 🙂"
    fill(page, text, "who wrote the book")
    units = ask(url, text, "who wrote the book", 0.15)["units"]
    assert texts(page, ".unit") == [text[u["start"] : u["end"]] for u in units]
    assert page.locator(".text").text_content() == text
