"""Allocators: how much of a page's budget each of its crops gets, and how much there is to see on a page."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ctxcomp.visual.encoded import View
from ctxcomp.visual.layout import Page
from ctxcomp.visual.scorers import Scorer, TowerAttention


@dataclass(frozen=True)
class Allocator:
    """One budget for the whole page: the best tokens win, wherever they are."""

    @property
    def tower_layers(self) -> tuple[int, ...]:
        """Layers of the vision tower that it reads."""
        return ()

    def weights(self, view: View, scores: Tensor) -> list[float] | None:
        """The weight of each crop in ``page.numbers``; None leaves the page whole."""
        return None


@dataclass(frozen=True)
class BySize(Allocator):
    """Every crop keeps the same share of its tokens."""

    def weights(self, view: View, scores: Tensor) -> list[float] | None:
        """See ``Allocator``."""
        return [float(len(view.page.crop(number))) for number in view.page.numbers]


@dataclass(frozen=True)
class ByThumbnail(Allocator):
    """GlobalCom2: crops keep more where the thumbnail's scores are high; the thumbnail keeps the average share.

    Parameters
    ----------
    scorer: of the thumbnail's tokens; scores before a softmax, since weights after one make all crops alike.
    temperature: of the softmax over the crops' sums, > 0.
    """

    scorer: Scorer = field(default_factory=lambda: TowerAttention(-1, "logits", "distinct"))
    temperature: float = 10.0

    @property
    def tower_layers(self) -> tuple[int, ...]:
        """See ``Allocator``."""
        return self.scorer.tower_layers

    def weights(self, view: View, scores: Tensor) -> list[float] | None:
        """See ``Allocator``."""
        page = view.page
        if page.thumbnail is None:
            return BySize().weights(view, scores)
        factors = 1 + mass_of_crops(thumbnail_map(page, self.scorer.score(view)), page.grid, self.temperature)
        outer = [number for number in range(page.grid[0] * page.grid[1] + 1) if number != page.thumbnail]
        by_number = dict(zip(outer, factors.tolist(), strict=True)) | {page.thumbnail: 1.0}
        return [by_number[number] * len(page.crop(number)) for number in page.numbers]


@dataclass(frozen=True)
class ByDensity(Allocator):
    """TokenCorr-inspired: a crop keeps more the fewer near-copies are among its tokens.

    Parameters
    ----------
    threshold: two tokens whose centred features have a higher cosine are near-copies; our choice, the paper
        (arXiv 2407.14439) publishes no code and no thresholds. Of the paper only the density of a crop is taken.
    """

    threshold: float = 0.9

    def weights(self, view: View, scores: Tensor) -> list[float] | None:
        """See ``Allocator``."""
        return [
            density(view, view.page.crop(number), self.threshold) * len(view.page.crop(number))
            for number in view.page.numbers
        ]


@dataclass(frozen=True)
class ByEarlyAttention(Allocator):
    """HiRED: the thumbnail's early attention to a crop's place says what the crop gets.

    Parameters
    ----------
    layer: an early layer of the tower.
    thumbnail_share: of the page's budget that the thumbnail keeps, in [0, 1].

    Source: HiRED (arXiv 2408.10945) from its description; both numbers are ours.
    """

    layer: int = 0
    thumbnail_share: float = 0.2

    @property
    def tower_layers(self) -> tuple[int, ...]:
        """See ``Allocator``."""
        return (self.layer,)

    def weights(self, view: View, scores: Tensor) -> list[float] | None:
        """See ``Allocator``."""
        page = view.page
        if page.thumbnail is None:
            return BySize().weights(view, scores)
        early = thumbnail_map(page, TowerAttention(self.layer, "softmax").score(view))
        mass = crop_sums(early, page.grid)
        mass = mass / mass.sum() if float(mass.sum()) > 0 else torch.full_like(mass, 1 / len(mass))
        outer = [number for number in range(page.grid[0] * page.grid[1] + 1) if number != page.thumbnail]
        shares = dict(zip(outer, ((1 - self.thumbnail_share) * mass).tolist(), strict=True))
        shares[page.thumbnail] = self.thumbnail_share
        return [shares[number] for number in page.numbers]


def thumbnail_map(page: Page, scores: Tensor) -> Tensor:
    """The thumbnail's scores as a map ``[h, w]``."""
    whole = page.crop(int(page.thumbnail or 0))
    return scores[whole].view(int(page.rows[whole].max()) + 1, -1)


def crop_sums(scores: Tensor, grid: tuple[int, int]) -> Tensor:
    """Sums of a map ``[h, w]`` over the places of ``grid`` crops, float64 in reading order.

    Rows and columns that do not divide evenly go to the last crop, as GlobalCom2 does it.
    """
    (height, width), (rows, columns) = scores.shape, grid
    row = torch.div(torch.arange(height), max(height // rows, 1), rounding_mode="floor").clamp(max=rows - 1)
    column = torch.div(torch.arange(width), max(width // columns, 1), rounding_mode="floor").clamp(max=columns - 1)
    cell = (row[:, None] * columns + column[None]).flatten()
    return torch.zeros(rows * columns, dtype=torch.float64).index_add_(0, cell, scores.flatten().double().cpu())


def mass_of_crops(scores: Tensor, grid: tuple[int, int], temperature: float) -> Tensor:
    """GlobalCom2's surplus of each crop: a softmax of the sums less its mean, float64 ``[crops]``, adding up to 0."""
    sums = crop_sums(scores, grid)
    weights = torch.exp((sums - sums.max()) / temperature)
    weights = weights / (weights.sum() + 1e-8)
    return weights - weights.mean()


def density(view: View, tokens: Tensor, threshold: float = 0.9) -> float:
    """The share of tokens that have no near-copy before them, in (0, 1]; 1 for no tokens.

    Features are centred first: what all tokens of a page have in common would make them all alike.
    """
    if not len(tokens):
        return 1.0
    values = view.features[tokens.to(view.features.device)].float()
    unit = torch.nn.functional.normalize(values - values.mean(0), dim=-1)
    alike = torch.tril(unit @ unit.T, diagonal=-1) > threshold
    # A page of one colour has centred features of nothing: every token is a copy of the first.
    blank = unit.norm(dim=-1) < 0.5
    copies = alike.any(1) | (blank & (blank.cumsum(0) > 1))
    return 1.0 - float(copies.float().mean())
