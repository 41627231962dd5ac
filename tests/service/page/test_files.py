"""Files that are opened, and how text becomes passages."""

from __future__ import annotations

import json

import pytest
from page_helpers import named, settle, texts

expect = pytest.importorskip("playwright.sync_api").expect


def test_files_by_picker(open_page, url):
    page = open_page(url)
    rows = [{"id": 7, "text": "Anna wrote it.", "score": 2}, {"text": "Otto read it.", "title": "Second"}]
    lines = "\n".join(map(json.dumps, rows))
    page.set_input_files(
        "#files",
        [
            named("a.txt", "One wrote.\r\n---\r\nTwo wrote.".encode("utf-16")),
            named("b.md", b"# Head\n\nThree wrote.\n"),
            named("c.jsonl", lines.encode()),
            named("d.pdf", b"%PDF"),
            named("e.txt", b"\xff\x00\xfe"),
        ],
    )
    expect(page.locator("#size")).to_contain_text("5 passages")  # the example made room
    settle(page)
    assert texts(page, ".passage h3 bdi") == ["a.txt:1", "a.txt:2", "b.md", "7", "Second"]
    problem = page.text_content("#input-problem")
    assert "d.pdf: only .txt, .md, .jsonl" in problem
    assert "e.txt: not UTF-8 text" in problem
    page.check("[name=split][value=blank]")
    settle(page)
    assert page.text_content("#size").startswith("5 passages")
    page.click("text=Remove >> nth=0")
    settle(page)
    assert texts(page, ".files bdi") == ["b.md", "c.jsonl"]
    page.set_input_files("#files", [named("f.jsonl", b'{"text": "x"}\n{"body": 1}')])
    expect(page.locator("#input-problem")).to_contain_text('f.jsonl:2: no "text"')
    page.click("#clear")
    settle(page)
    assert page.locator(".passage").count() == 0
    assert page.text_content("[data-figure=tokens]") == "–"


def test_files_by_drag_and_drop(open_page, url):
    page = open_page(url)
    page.evaluate(
        """() => {
          const data = new DataTransfer();
          for (const name of ["x.txt", "y.md"]) data.items.add(new File([`${name} wrote it.`], name));
          for (const type of ["dragover", "drop"]) {
            document.body.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
          }
        }"""
    )
    expect(page.locator(".files bdi")).to_have_text(["x.txt", "y.md"])
    settle(page)
    assert texts(page, ".unit") == ["x.txt wrote it.", "y.md wrote it."]


def test_parts(open_page, url):
    """The modules that touch no page, called in the browser."""
    page = open_page(url)
    found = page.evaluate(
        """async () => {
          const { split } = await import("/static/passages.js");
          const { KEEPS } = await import("/static/keep.js");
          const { pieces, overlap, keptRanges } = await import("/static/difference.js");
          const texts = (text, how) => split(text, how).map((passage) => passage.text);
          return {
            rules: texts("\\n\\n  a\\n\\nb\\n--- \\n\\n-----\\nc -- d\\n---e\\n", "rules"),
            blank: texts("a\\n \\n\\nb\\nc\\n\\n\\n\\n  d", "blank"),
            none: texts("\\n a\\n---\\n\\nb ", "none"),
            keeps: KEEPS,
            pieces: pieces("one two three four", 0, 18, [[4, 7], [8, 13]]),
            overlap: overlap([[0, 10], [20, 30]], [[5, 25]]),
            ranges: keptRanges("a b  c", [
              { start: 0, end: 1, kept: true },
              { start: 2, end: 3, kept: true },
              { start: 5, end: 6, kept: false },
            ]),
          };
        }"""
    )
    assert found["rules"] == ["  a\n\nb", "c -- d\n---e"]
    assert found["blank"] == ["a", "b\nc", "  d"]
    assert found["none"] == [" a\n---\n\nb"]
    assert found["keeps"] == sorted(set(found["keeps"]))
    assert (found["keeps"][0], found["keeps"][-1]) == (0.01, 1)
    assert [(p["start"], p["end"], p["shared"]) for p in found["pieces"]] == [
        (0, 4, False),
        (4, 13, True),
        (13, 18, False),
    ]
    assert found["overlap"] == {"both": 10, "onlyFirst": 10, "onlySecond": 10}
    assert found["ranges"] == [[0, 3]]
