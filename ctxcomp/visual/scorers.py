"""Scorers: the worth of each visual token of a page. Higher is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.visual.encoded import View


@dataclass(frozen=True)
class Scorer:
    """Gives scores; this one likes all tokens alike.

    ``tower_layers`` and ``language_layer`` say whose attention must be heard for it.
    """

    @property
    def tower_layers(self) -> tuple[int, ...]:
        """Layers of the vision tower that it reads."""
        return ()

    @property
    def language_layer(self) -> tuple[int, str] | None:
        """The layer of the language model that it reads, and whose attention: "last" or "after" the images."""
        return None

    def score(self, view: View) -> Tensor:
        """The score of each token, float ``[page]``; row ends are never looked at."""
        return torch.zeros(len(view.page))


@dataclass(frozen=True)
class Noise(Scorer):
    """Random scores: the honest baseline. The page's place is part of the seed, so that pages differ."""

    seed: int = 0

    def score(self, view: View) -> Tensor:
        """See ``Scorer``."""
        generator = torch.Generator().manual_seed((self.seed << 20) + view.seed)
        return torch.rand(len(view.page), generator=generator)


@dataclass(frozen=True)
class TowerAttention(Scorer):
    """What the vision tower pays a token.

    Parameters
    ----------
    layer: of the tower, from -1 backwards.
    kind: "logits" before the softmax, "softmax" after it, "full_width" as one head of the whole width.
    without_cls: what serves in a tower without a CLS token: "received" attention of all patches, or "distinct",
        the opposite of the similarity to the page's mean.
    """

    layer: int = -1
    kind: Literal["logits", "softmax", "full_width"] = "softmax"
    without_cls: Literal["received", "distinct"] = "received"

    @property
    def tower_layers(self) -> tuple[int, ...]:
        """See ``Scorer``."""
        return (self.layer,)

    def score(self, view: View) -> Tensor:
        """See ``Scorer``."""
        if view.signals.has_cls:
            names = {"logits": "cls_logits", "softmax": "cls_attention", "full_width": "cls_attention_full_width"}
            return view.signal(names[self.kind], self.layer)
        if self.without_cls == "received":
            return view.signal("received", self.layer)
        return distinct(view)


@dataclass(frozen=True)
class LocalAndGlobal(Scorer):
    """GlobalCom2: a crop's own scores plus those that the thumbnail gives the same place, each of length one.

    Parameters
    ----------
    local: scores the tokens of every crop, thumbnail included.
    """

    local: Scorer = field(default_factory=lambda: TowerAttention(-1, "logits", "distinct"))

    @property
    def tower_layers(self) -> tuple[int, ...]:
        """See ``Scorer``."""
        return self.local.tower_layers

    def score(self, view: View) -> Tensor:
        """See ``Scorer``; a page without a thumbnail keeps its own scores."""
        own, page = self.local.score(view).float(), view.page
        if page.thumbnail is None:
            return own
        whole = page.crop(page.thumbnail)
        rows, columns = int(page.rows[whole].max()) + 1, int(page.columns[whole].max()) + 1
        outer = torch.nonzero((page.crops != page.thumbnail) & ~page.structural).flatten()
        height, width = _lines(page.boxes[outer, 0]), _lines(page.boxes[outer, 1])
        seen = resized(own[whole].view(rows, columns), height, width)
        y, x = _place(page.boxes[outer, 0]), _place(page.boxes[outer, 1])
        from_whole = torch.zeros_like(own)
        from_whole[outer] = seen[y, x]
        total = own.clone()
        for number in page.numbers:
            if number != page.thumbnail:
                tokens = page.crop(number)
                total[tokens] = unit_sum(own[tokens], from_whole[tokens])
        return total


@dataclass(frozen=True)
class LanguageAttention(Scorer):
    """What a first layer of the language model pays a token.

    Parameters
    ----------
    layer: of the language model, from 0.
    queries: "last", the last token of the prompt (FastV); "after", the mean of all tokens after the page's
        prompt's images (Mini-Monkey's SCM, without its off-by-one, which drops a neighbour's first token).

    Source: the mathematics of FastV (arXiv 2403.06764) at the input: the layers up to this one are run once on the
    whole prompt, then the shorter prompt begins anew. Its code, which has no licence, was not read.
    """

    layer: int = 1
    queries: Literal["last", "after"] = "last"

    @property
    def language_layer(self) -> tuple[int, str] | None:
        """See ``Scorer``."""
        return self.layer, self.queries

    def score(self, view: View) -> Tensor:
        """See ``Scorer``."""
        if view.attention is None:
            raise InputError("the language model's attention was not heard: prune with a VisualPruner")
        return view.attention


@dataclass(frozen=True)
class Relevance(Scorer):
    """The retriever's own late-interaction map, as ``maps=`` gives it."""

    def score(self, view: View) -> Tensor:
        """See ``Scorer``."""
        if view.relevance is None:
            raise InputError("the method 'retriever' needs the retriever's map of every page: give maps=")
        return view.relevance


@dataclass(frozen=True)
class Guided(Scorer):
    """Another scorer's ranks mixed with the ranks of the retriever's map, where there is one.

    Parameters
    ----------
    inner: the other scorer.
    weight: of the map, in [0, 1].
    """

    inner: Scorer
    weight: float = 0.5

    @property
    def tower_layers(self) -> tuple[int, ...]:
        """See ``Scorer``."""
        return self.inner.tower_layers

    @property
    def language_layer(self) -> tuple[int, str] | None:
        """See ``Scorer``."""
        return self.inner.language_layer

    def score(self, view: View) -> Tensor:
        """See ``Scorer``."""
        scores = self.inner.score(view)
        if view.relevance is None:
            return scores
        return (1 - self.weight) * _ranks(scores) + self.weight * _ranks(view.relevance)


def distinct(view: View) -> Tensor:
    """How little a token resembles the mean of its page: ``-cos(x, mean)``, ``[page]``."""
    content = view.page.content.to(view.features.device)
    mean = view.features[content].float().mean(0)
    return -torch.nn.functional.cosine_similarity(view.features.float(), mean[None], dim=-1).cpu()


def unit_sum(local: Tensor, whole: Tensor) -> Tensor:
    """Two score vectors of one crop, each of length one, added."""
    return torch.nn.functional.normalize(local, dim=0) + torch.nn.functional.normalize(whole, dim=0)


def resized(scores: Tensor, height: int, width: int) -> Tensor:
    """A map of scores ``[h, w]`` at another size, bilinear."""
    return torch.nn.functional.interpolate(
        scores[None, None], size=(height, width), mode="bilinear", align_corners=False
    )[0, 0]


def _lines(edges: Tensor) -> int:
    return len(torch.unique(edges))


def _place(edges: Tensor) -> Tensor:
    return torch.searchsorted(torch.unique(edges), edges)


def _ranks(values: Tensor) -> Tensor:
    """Ranks in [0, 1]; equal values share one."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0) - 1
    ranks: Tensor = (last - (counts - 1) / 2)[inverse] / max(len(values) - 1, 1)
    return ranks
