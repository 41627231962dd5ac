"""The keyboard, a phone, and colours."""

from __future__ import annotations

import re

from page_helpers import fill, named, settle, texts

PHONE = {"width": 360, "height": 740}


FOCUS = """() => {
  const node = document.activeElement;
  const { outlineStyle, outlineWidth } = getComputedStyle(node);
  return [node.id || node.className || node.tagName, outlineStyle !== "none" && parseFloat(outlineWidth) > 0];
}"""

UNNAMED = """() => [...document.querySelectorAll("button, select, textarea, input:not([hidden]), summary, [tabindex]")]
  .filter((node) => !node.labels?.length && !node.getAttribute("aria-label") && !node.textContent.trim())
  .map((node) => node.outerHTML)"""


def test_by_keyboard_alone(open_page, url):
    page = open_page(url)
    settle(page)
    stops = []
    for _ in range(30):
        page.keyboard.press("Tab")
        name, outlined = page.evaluate(FOCUS)
        stops.append(name)
        assert outlined or name == "BODY", stops
        if stops[-1] == "unit":
            break
    assert [s for s in stops if s in ("query", "pasted", "open", "keep", "compare", "unit")] == [
        "query", "pasted", "open", "keep", "compare", "unit",
    ]  # fmt: skip
    focused = "document.activeElement.textContent"
    assert page.evaluate(focused) == texts(page, ".unit")[0]
    assert re.fullmatch(r"(Kept|Dropped) · score [\d.e-]+ · rank \d+ of \d+", page.text_content("#tip"))
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tip"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == texts(page, ".unit")[1]
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == texts(page, ".passage:nth-child(2) .unit")[0]
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == texts(page, ".unit")[0]
    page.keyboard.press("End")
    assert page.evaluate(focused) == texts(page, ".unit")[-1]
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") != "unit"  # one stop for all of them
    assert page.evaluate(UNNAMED) == []


def test_on_a_phone(open_page, url):
    page = open_page(url, viewport=PHONE, has_touch=True, is_mobile=True)
    page.check("#compare")
    page.wait_for_selector(".agreement")
    fill(page, "Anna wrote it " + "w" * 500 + ". Otto read it.\n\n---\n\n" + "https://example.org/" + "a/" * 200)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.locator(".unit").nth(1).tap()
    assert page.locator("#tip").is_visible()
    box = page.locator("#tip").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE["width"]
    first, second = (page.locator(".passage:first-child .cell").nth(i).bounding_box() for i in (0, 1))
    assert first["y"] < second["y"]
    assert first["x"] == second["x"]


CONTRASTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const color = rgba(getComputedStyle(node).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = new Map();
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest(":disabled")) continue;
    const [a, b] = [light(rgba(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    const name = `${node.tagName}.${node.className}`;
    found.set(name, Math.min(found.get(name) ?? 99, contrast));
  }
  return Object.fromEntries(found);
}"""


def test_contrast(open_page, url):
    page = open_page(url, reduced_motion="reduce")
    page.check("#compare")
    page.wait_for_selector(".agreement")
    page.set_input_files("#files", [named("d.pdf", b"")])
    page.click("summary")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.locator(".unit").first.focus()
        found = page.evaluate(CONTRASTS)
        assert len(found) > 15
        assert {name: round(c, 2) for name, c in found.items() if c < 4.5} == {}
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", ground)[:3])) < 60) == (scheme == "dark")
