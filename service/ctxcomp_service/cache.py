"""Results by content, for each tenant apart: how long an answer takes tells nobody what others have asked."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from typing import Any

from ctxcomp.types import CompressedText, Request

BYTES_PER_CHARACTER = 4
ENTRY_BYTES = 2000
SPAN_BYTES = 150


class ResultCache:
    """The results that were used last.

    Parameters
    ----------
    most_bytes: memory that it may take, estimated; 0 remembers nothing.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._entries: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def get(self, key: str) -> Any | None:
        """What `put` stored, if it is still there."""
        found = self._entries.get(key)
        if found is None:
            return None
        self._entries.move_to_end(key)
        return found[0]

    def put(self, key: str, value: Any, size: int) -> None:
        """Remember a value of about this many bytes; what was not used for longest makes room."""
        if size > self.most_bytes:
            return
        if key in self._entries:
            self.bytes -= self._entries.pop(key)[1]
        self._entries[key] = value, size
        self.bytes += size
        while self.bytes > self.most_bytes:
            self.bytes -= self._entries.popitem(last=False)[1][1]


def content_key(tenant: str, kind: str, request: Request) -> str:
    """What decides a result: whose it is, how it is made, and from what."""
    passages = [[p.text, p.id, p.title, p.score, p.metadata.get("protect")] for p in request.passages]
    budget = [request.budget.tokens, request.budget.keep]
    content = json.dumps([tenant, kind, request.query, passages, budget], default=repr)
    return hashlib.sha256(content.encode()).hexdigest()


def size_in_memory(result: CompressedText, units: int = 0) -> int:
    """About how many bytes a remembered result takes, with its passages."""
    texts = sum(map(len, result.passage_texts)) + len(result.text) + sum(len(p.text) for p in result.passages)
    return ENTRY_BYTES + BYTES_PER_CHARACTER * texts + SPAN_BYTES * (len(result.spans or ()) + units)
