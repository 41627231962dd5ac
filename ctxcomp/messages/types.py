"""What `locate` finds in chat messages, and what `apply` gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ctxcomp.types import CompressedText, Passage


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one passage stands in a text.

    Parameters
    ----------
    start, end: its text, in characters; inside the quotes where it is a JSON string.
    shell_start, shell_end: what goes away with it if nothing of it is left: its number, title, tags, JSON object.
        Passages of one JSON object share a shell, which goes when all of them are gone.
    json: whether it is a JSON string, whose escapes must hold.
    """

    start: int
    end: int
    shell_start: int
    shell_end: int
    json: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """A piece of one message's text that is context.

    Parameters
    ----------
    message: index of the message.
    part: index into its content parts; None where the content is a string.
    start, end: characters of that text.
    passages: the pieces in it, each with ``id`` and ``title`` where the text names them.
    how: what marked it, for people: ``"tag <context>"``, ``"label Context:"``, ``"numbered passages"``, …
    slots: where each passage stands, in the order of ``passages``.
    """

    message: int
    part: int | None
    start: int
    end: int
    passages: tuple[Passage, ...]
    how: str
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class Located:
    """The context in some messages and the query it is for.

    Parameters
    ----------
    query: taken from the messages or given, never made up; "" where there is none.
    query_from: where it was taken from, for people: ``"last user message"``, ``"given"``, …
    places: in the order of the messages.
    """

    query: str
    query_from: str
    places: tuple[Place, ...]

    @property
    def passages(self) -> tuple[Passage, ...]:
        """The passages of all places, in order."""
        return tuple(passage for place in self.places for passage in place.passages)


@dataclass(frozen=True, slots=True)
class CompressedMessages:
    """Messages whose context is shorter.

    Parameters
    ----------
    messages: new dictionaries where something changed; the others hold what came in.
    located: what was taken as query and as context.
    results: the results of the compressor; empty where there was no context.
    tokens_in, tokens_out: tokens of the text in all messages, each content string or text part counted by itself.
    tokens_context: what is left of the passages, counted where it stands: ``tokens_out`` less the text around it.
    """

    messages: list[dict[str, Any]]
    located: Located
    results: tuple[CompressedText, ...]
    tokens_in: int
    tokens_out: int
    tokens_context: int
