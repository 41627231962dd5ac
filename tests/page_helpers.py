"""What the tests of the page share: hostile text, and small steps in the browser."""

from __future__ import annotations

from typing import Any

import pytest

httpx = pytest.importorskip("httpx")
playwright = pytest.importorskip("playwright.sync_api")

HOSTILE = "\n\n---\n\n".join(
    [
        "<script>window.pwned = 1</script> The <b>script</b> wrote nothing. A quote ' and a \" and a \\ end here.",
        '<img src=x onerror="window.pwned = 2"> $(touch pwned) and `touch pwned` stay. It is $HOME && true; exit 1 !!',
        "\u202eEvil override\u202c wrote it. A NUL \0 byte,\tand an escape \x1b[31m stay. '''so''' \"\"\"do\"\"\".",
        "JSON\nEOF\n</textarea></script><svg onload=window.pwned=3> wrote \u2028 lines. {{constructor}} ${7*7}",
        "Formats wrote %s {0} \\u0041 \\N{BULLET} \\x41 \\n, too.",
    ]
)
HOSTILE_QUERY = "who wrote '; touch pwned; ' or \"$(touch pwned)\" `touch pwned` \\ \U0001f600 <script>pwned=4</script>"


class Held:
    """The page's requests for compression, kept from the server until `release`."""

    def __init__(self, page: Any) -> None:
        self.routes: list[Any] = []
        page.route("**/v1/compress", self._hold)

    def _hold(self, route: Any, _request: Any) -> None:
        self.routes.append(route)

    def asked(self) -> list[dict[str, Any]]:
        """The bodies of the requests."""
        return [route.request.post_data_json for route in self.routes]

    def release(self) -> None:
        """Let them go, the last one first."""
        for route in reversed(self.routes):
            route.continue_()


def fill(page: Any, text: str, query: str = "who wrote it") -> None:
    """Give passages and a question, and wait for their result."""
    page.fill("#query", query)
    page.fill("#pasted", text)
    settle(page)


def settle(page: Any) -> None:
    """Wait until what is shown is the server's answer to what is asked."""
    playwright.expect(page.locator(".stale, .waiting")).to_have_count(0, timeout=30_000)


def texts(page: Any, selector: str) -> list[str]:
    """The text of each element."""
    return page.locator(selector).all_text_contents()


def ask(url: str, text: str, query: str, keep: float) -> dict[str, Any]:
    """What the server says when it is asked without a page."""
    passages = [piece.strip() for piece in text.split("\n---\n")]
    body = {"query": query, "passages": passages, "budget": {"keep": keep}, "include": ["scores"]}
    answer = httpx.post(f"{url}/v1/compress", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def named(name: str, content: bytes) -> dict[str, Any]:
    """A file for the picker."""
    return {"name": name, "mimeType": "", "buffer": content}
