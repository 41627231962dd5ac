"""The arguments of one call, with a shorter context: what `compress_context` does between a caller and a function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ctxcomp.compressor import Compressor
from ctxcomp.errors import InputError
from ctxcomp.messages import CompressedMessages, compress_messages, locate
from ctxcomp.messages.content import MARK
from ctxcomp.messages.foreign import as_messages, replaced, with_messages
from ctxcomp.registry import DEFAULT_METHOD, load
from ctxcomp.types import Budget, CompressedText, Passage

Text: TypeAlias = Compressor[CompressedText]
Arguments: TypeAlias = Mapping[str, Any]
BudgetLike: TypeAlias = Budget | int | float
_TEXT_KEYS = ("text", "page_content", "content")


@dataclass(frozen=True, slots=True)
class Way:
    """How the arguments of a function are compressed; the fields are those of `compress_context`."""

    context: str | None
    messages: str | None
    query: str | Callable[[Arguments], str] | None
    compressor: Text | str | None
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The parameter that changes."""
        return self.context or self.messages or ""

    def shortened(self, arguments: Arguments, budget: Budget) -> tuple[str, Any, list[CompressedText]] | None:
        """The argument that changes, its new value and what the compressor gave; None where there is no context."""
        name, value = self.name, arguments.get(self.name)
        if value is None:
            return None
        compressor = _loaded(self.compressor)
        if self.context:
            return _context(name, value, self._query(arguments), compressor, budget)
        value = value if isinstance(value, (str, tuple)) else _readable(value)
        query = None if self.query is None else self._query(arguments)
        done = compress_messages(as_messages(value), compressor, budget, query=query, **self.options)
        return name, with_messages(value, done.messages), list(done.results)

    def _query(self, arguments: Arguments) -> str:
        given: Any = self.query(arguments) if callable(self.query) else arguments.get(self.query or self.messages or "")
        if given is None or isinstance(given, str):
            return given or ""
        return locate(as_messages(_readable(given))).query


def _readable(messages: Any) -> Any:
    """Messages that can be read more than once: not an iterator, and not a prompt value of LangChain's."""
    if hasattr(messages, "to_messages"):
        return messages.to_messages()
    return list(messages) if isinstance(messages, Iterable) and not isinstance(messages, Mapping) else messages


def as_budget(given: BudgetLike) -> Budget:
    """A budget from what people write: a whole number is tokens, a fraction is the share to keep.

    Raises
    ------
    BudgetError: it is neither, or out of range.
    """
    if isinstance(given, Budget):
        return given
    return Budget(keep=given) if isinstance(given, float) else Budget(tokens=given)


@functools.cache
def _load(name: str) -> Text:
    return load(name)


def _loaded(compressor: Text | str | None) -> Text:
    """The compressor; a named one is loaded at the first call that needs it, once."""
    if compressor is None or isinstance(compressor, str):
        return _load(compressor or DEFAULT_METHOD)
    return compressor


def _context(
    name: str, value: Any, query: str, compressor: Text, budget: Budget
) -> tuple[str, Any, list[CompressedText]] | None:
    if isinstance(value, str):
        done: CompressedMessages = compress_messages(
            [{"role": "user", "content": value, MARK: "context"}], compressor, budget, query=query
        )
        return name, done.messages[0]["content"], list(done.results)
    single = not isinstance(value, (list, tuple))
    items: Sequence[Any] = [value] if single else value
    passages = [_passage(item, name) for item in items]
    if not passages:
        return None
    result = compressor.compress(query, passages, budget)
    kept = [
        item if left == passage.text else _with_text(item, left)
        for item, passage, left in zip(items, passages, result.passage_texts, strict=True)
        if left or single or not passage.text
    ]
    shorter = kept[0] if single else tuple(kept) if isinstance(value, tuple) else kept
    return name, shorter, [result]


def _passage(item: Any, name: str) -> Passage:
    """One item of a context as a passage."""
    if isinstance(item, Passage):
        return item
    if isinstance(item, str):
        return Passage(item)
    if isinstance(item, Mapping):
        key = _text_key(item)
        if key:
            return Passage(item[key], id=_text(item.get("id")), title=_text(item.get("title")) or None)
    elif isinstance(getattr(item, "page_content", None), str):
        metadata = getattr(item, "metadata", None) or {}
        return Passage(
            item.page_content,
            id=_text(getattr(item, "id", None)),
            title=_text(metadata.get("title")) or None,
            metadata=metadata,
        )
    raise InputError(
        f"{name} must hold str, Passage, LangChain documents or mappings with a text, got {type(item).__name__}"
    )


def _with_text(item: Any, text: str) -> Any:
    if isinstance(item, str):
        return text
    if isinstance(item, Passage):
        return Passage(text, item.id, item.title, item.score, item.metadata, item.embedding)
    if isinstance(item, Mapping):
        return {**item, str(_text_key(item)): text}
    return replaced(item, "page_content", text)


def _text_key(item: Mapping[str, Any]) -> str | None:
    return next((key for key in _TEXT_KEYS if isinstance(item.get(key), str)), None)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
