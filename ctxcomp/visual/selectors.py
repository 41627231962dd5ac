"""Selectors: which tokens of a page stay, given their scores and how many there is room for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctxcomp.visual.cells import centres, grid_cells, line_cells
from ctxcomp.visual.encoded import View


@dataclass(frozen=True)
class Selector:
    """Orders tokens so that the first ``n`` are the ones to keep."""

    @property
    def nested(self) -> bool:
        """Whether the choice of fewer tokens is always the beginning of the choice of more."""
        return True

    def order(self, view: View, scores: Tensor, tokens: Tensor, n: int) -> Tensor:
        """The tokens to keep when ``n`` may stay, the most wanted first.

        Parameters
        ----------
        scores: float ``[page]``, higher is kept.
        tokens: int64 ``[m]``, those that may be chosen, in the page's order.
        n: <= m.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class TopK(Selector):
    """The highest scores; of equal ones the first in reading order."""

    def order(self, view: View, scores: Tensor, tokens: Tensor, n: int) -> Tensor:
        """See ``Selector``."""
        return tokens[torch.argsort(scores[tokens], descending=True, stable=True)[:n]]


@dataclass(frozen=True)
class Stride(Selector):
    """Every so-manyth token in reading order, whatever the scores."""

    @property
    def nested(self) -> bool:
        """See ``Selector``."""
        return False

    def order(self, view: View, scores: Tensor, tokens: Tensor, n: int) -> Tensor:
        """See ``Selector``."""
        m = len(tokens)
        picked = torch.div((2 * torch.arange(n) + 1) * m, 2 * max(n, 1), rounding_mode="floor")
        return tokens[picked]


@dataclass(frozen=True)
class Cells(Selector):
    """The middle token of each cell.

    Parameters
    ----------
    along_lines: cells are runs of reading order; otherwise near-square blocks.
    """

    along_lines: bool = False

    @property
    def nested(self) -> bool:
        """See ``Selector``."""
        return False

    def order(self, view: View, scores: Tensor, tokens: Tensor, n: int) -> Tensor:
        """See ``Selector``."""
        return centres(view.page, tokens, self.cells(view, tokens, n), n)

    def cells(self, view: View, tokens: Tensor, n: int) -> Tensor:
        """The cell of each token."""
        return line_cells(len(tokens), n) if self.along_lines else grid_cells(view.page, tokens, n)


@dataclass(frozen=True)
class MaxMin(Selector):
    """Far from each other: each next token is the one whose nearest chosen token is farthest.

    The first is the token whose nearest neighbour is farthest. An exact copy of a chosen token has distance 0 and is
    taken only once nothing else is left.

    Source: the max-min diversity problem as DivPrune (arXiv 2503.02175) poses it, written from its mathematics alone,
    with 1 - cosine as the distance.
    """

    def order(self, view: View, scores: Tensor, tokens: Tensor, n: int) -> Tensor:
        """See ``Selector``."""
        unit = view.unit_features.cpu()[tokens]
        return tokens[spread(1 - unit @ unit.T, n)]


@dataclass(frozen=True)
class Coverage(Selector):
    """Together they cover the question's words and the page: greedy maximum coverage.

    Parameters
    ----------
    alpha: weight of covering the page against covering the question, >= 0.
    text_temperature, page_temperature: of the two softmaxes, > 0.

    Source: MMTok (arXiv 2508.18264). Deviation: both similarities are of projected features, where the reference takes
    the tower's own for the page; without a question only the page is covered.
    """

    alpha: float = 0.5
    text_temperature: float = 0.02
    page_temperature: float = 0.2

    def order(self, view: View, scores: Tensor, tokens: Tensor, n: int) -> Tensor:
        """See ``Selector``."""
        unit = view.unit_features.cpu()[tokens]
        query = None
        if view.query is not None and len(view.query):
            query = torch.nn.functional.normalize(view.query.float().cpu(), dim=-1)
        return tokens[greedy_cover(self.table(query, unit, unit), n)]

    def table(self, query: Tensor | None, unit: Tensor, page_unit: Tensor) -> Tensor:
        """What each token covers of each question token and page token, ``[q + m, m]``; rows sum to their weights."""
        page = self.alpha * ((page_unit @ page_unit.T) / self.page_temperature).softmax(1) / len(unit)
        if query is None:
            return page
        text = ((query @ unit.T) / self.text_temperature).softmax(1) / len(query)
        return torch.cat([text, page])


@dataclass(frozen=True)
class DominantAndTargets(Selector):
    """VisionZip: the highest scores, and targets at an even stride among the others, which gather what is dropped.

    Parameters
    ----------
    share: of the kept tokens that are targets, in [0, 1]; 10 of 64 in the paper.

    Source: VisionZip (arXiv 2412.04467). Deviation: its CLS token is not passed on, since the models here drop it.
    """

    share: float = 10 / 64

    @property
    def nested(self) -> bool:
        """See ``Selector``."""
        return False

    def order(self, view: View, scores: Tensor, tokens: Tensor, n: int) -> Tensor:
        """See ``Selector``; the dominant tokens come first."""
        dominant, targets = dominant_and_targets(scores[tokens], n - self.targets(n), self.targets(n))
        return tokens[torch.cat([dominant, targets])]

    def targets(self, n: int) -> int:
        """How many of ``n`` tokens gather."""
        return min(round(n * self.share), n)


def dominant_and_targets(scores: Tensor, dominant: int, targets: int) -> tuple[Tensor, Tensor]:
    """The ``dominant`` highest of the scores ``[m]``, and ``targets`` places spread among the others; both rising."""
    best = torch.argsort(scores, descending=True, stable=True)[:dominant].sort().values
    left = torch.ones(len(scores), dtype=torch.bool)
    left[best] = False
    others = torch.nonzero(left).flatten()
    return best, others[:: max(1, len(others) // max(targets, 1))][:targets]


def spread(distance: Tensor, n: int) -> Tensor:
    """``n`` points far from each other, by distances ``[m, m]``: greedy farthest-point order, the first of equals."""
    m = len(distance)
    if m == 0 or n == 0:
        return torch.empty(0, dtype=torch.long)
    others = distance.clone()
    others.fill_diagonal_(float("inf"))
    nearest = torch.full((m,), float("inf"), dtype=distance.dtype)
    chosen = [int(others.amin(1).argmax()) if m > 1 else 0]
    while len(chosen) < min(n, m):
        nearest = torch.minimum(nearest, distance[chosen[-1]])
        nearest[chosen[-1]] = -float("inf")
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)


def greedy_cover(table: Tensor, n: int) -> Tensor:
    """``n`` columns that cover most, by what each covers of each row ``[rows, m]``: the first of equal gains."""
    m = table.shape[1]
    covered = torch.zeros(len(table), dtype=table.dtype)
    closed = torch.zeros(m, dtype=table.dtype)
    chosen = torch.zeros(min(n, m), dtype=torch.long)
    for i in range(len(chosen)):
        gain = (table - covered[:, None]).clamp_min_(0).sum(0) + closed
        best = gain.argmax()
        chosen[i] = best
        closed[best] = -float("inf")
        covered = torch.maximum(covered, table[:, best])
    return chosen
