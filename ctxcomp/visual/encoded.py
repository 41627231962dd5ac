"""Pages after the vision tower: features, layout and signals, whole and page by page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ctxcomp.visual.layout import Page
from ctxcomp.visual.signals import Signals


@dataclass(frozen=True, eq=False)
class Encoded:
    """The visual tokens of a batch of prompts, in the order of their placeholders.

    Parameters
    ----------
    features: ``[n, hidden]``, ready for the language model.
    deeper: what goes into later layers (DeepStack), each ``[n, hidden]``.
    pages: their layouts.
    samples: the prompt that each page belongs to.
    signals: of the vision tower.
    output: what the model's own ``get_image_features`` returned.
    seconds: the tower took.
    """

    features: Tensor
    deeper: tuple[Tensor, ...]
    pages: tuple[Page, ...]
    samples: tuple[int, ...]
    signals: Signals
    output: Any
    seconds: float

    @property
    def starts(self) -> list[int]:
        """Where each page begins among the visual tokens, and the end."""
        starts = [0]
        for page in self.pages:
            starts.append(starts[-1] + len(page))
        return starts


@dataclass(eq=False)
class View:
    """One page as methods see it: everything is in the order of the page's tokens.

    Parameters
    ----------
    page: the layout.
    features: ``[n, hidden]``.
    signals: gives a signal of the tower cut to this page, as ``view.signal("received", -1)``.
    query: embeddings of the question's tokens in the language model, ``[q, hidden]``; None without a question.
    attention: what the first layers of the language model pay each token, ``[n]``; None if nothing asked for it.
    relevance: the retriever's late-interaction map at each token, ``[n]``; None without one.
    seed: of what is drawn.
    """

    page: Page
    features: Tensor
    signals: Signals
    span: tuple[int, int]
    query: Tensor | None = None
    attention: Tensor | None = None
    relevance: Tensor | None = None
    seed: int = 0
    _known: dict[Any, Tensor] = field(default_factory=dict, init=False)

    def signal(self, name: str, layer: int, **options: Any) -> Tensor:
        """A signal of the tower by name, for this page's tokens."""
        return self.signals.named(name, layer, **options)[self.span[0] : self.span[1]]

    def once(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` gives, made once for this page."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    @property
    def unit_features(self) -> Tensor:
        """Features of length one, float32 ``[n, hidden]``."""
        return self.once("unit", lambda: torch.nn.functional.normalize(self.features.float(), dim=-1))
