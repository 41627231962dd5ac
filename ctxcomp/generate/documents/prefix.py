"""Evicting from a document, never from the beginning of the prompt that stands before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ctxcomp.generate.cache import Evictor, LayerView


@dataclass(frozen=True, kw_only=True)
class BehindPrefix(Evictor):
    """Another evictor, with its budget counted behind the first ``sinks`` tokens, which all stay.

    The end of a document is not protected as the end of a conversation is: the question does not follow it.

    Parameters
    ----------
    inner: scores the document's tokens.
    sinks: tokens before the document.
    """

    inner: Any
    tokens: int | None = 1
    recent: int = 0
    interval: int = 0

    @property
    def running(self) -> bool:  # type: ignore[override]
        """As the inner one."""
        return bool(self.inner.running)

    def score(self, view: LayerView) -> Tensor:
        """As the inner one."""
        score: Tensor = self.inner.score(view)
        return score

    def observe(self, view: LayerView) -> None:
        """As the inner one."""
        self.inner.observe(view)

    def merge(self, view: LayerView, kept: Tensor) -> tuple[Tensor, Tensor]:
        """As the inner one."""
        merged: tuple[Tensor, Tensor] = self.inner.merge(view, kept)
        return merged

    def budget(self, seen: int) -> int:
        """The prefix, and the inner budget of what follows it."""
        return min(seen, self.sinks + int(self.inner.budget(max(1, seen - self.sinks))))
