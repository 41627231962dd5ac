"""Methods by name: each is a scorer, a selector, an allocator over crops and a merger."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ctxcomp.errors import UnknownMethodError
from ctxcomp.fields import nearest
from ctxcomp.visual.allocators import Allocator, ByDensity, ByEarlyAttention, ByThumbnail
from ctxcomp.visual.mergers import CellMean, Gather, Merger, PruMerge
from ctxcomp.visual.scorers import (
    Guided,
    LanguageAttention,
    LocalAndGlobal,
    Noise,
    Relevance,
    Scorer,
    TowerAttention,
)
from ctxcomp.visual.selectors import Cells, Coverage, DominantAndTargets, MaxMin, Selector, Stride, TopK


@dataclass(frozen=True)
class Method:
    """A way to prune visual tokens.

    Parameters
    ----------
    name: what ``stats.method`` reports.
    summary: what it does, in one line.
    adaptive: whether it can choose without a budget.
    """

    name: str
    summary: str
    scorer: Scorer = field(default_factory=Scorer)
    selector: Selector = field(default_factory=TopK)
    allocator: Allocator = field(default_factory=Allocator)
    merger: Merger = field(default_factory=Merger)
    adaptive: bool = False

    @property
    def tower_layers(self) -> tuple[int, ...]:
        """Layers of the vision tower whose attention it reads."""
        return self.scorer.tower_layers + self.allocator.tower_layers + self.merger.tower_layers

    @property
    def ranks(self) -> bool:
        """Whether scores decide what stays."""
        return isinstance(self.selector, (TopK, DominantAndTargets))

    def guided(self, weight: float) -> Method:
        """The same with a retriever's map mixed into its scores."""
        if isinstance(self.scorer, Relevance):
            return self
        return replace(self, scorer=Guided(self.scorer, weight))


_ALL = (
    Method(
        "globalcom2", "the thumbnail decides what crops keep, both decide which tokens (GlobalCom2)",
        LocalAndGlobal(), TopK(), ByThumbnail(),
    ),
    Method(
        "visionzip", "the tower's favourites, and targets that gather the rest (VisionZip)",
        TowerAttention(-2), DominantAndTargets(), merger=Gather(),
    ),
    Method(
        "tokencorr", "crops with fewer near-copies keep more (inspired by TokenCorr)",
        TowerAttention(-1), TopK(), ByDensity(),
    ),
    Method("mmtok", "tokens that together cover the question and the page (MMTok)", selector=Coverage()),
    Method("divprune", "tokens far from each other (the max-min problem of DivPrune)", selector=MaxMin()),
    Method("fastv", "what the prompt's last token attends to in the second layer (FastV, at the input)",
           LanguageAttention(1, "last")),
    Method(
        "prumerge", "the tower's outliers take in their neighbours (LLaVA-PruMerge)",
        TowerAttention(-1, "full_width"),
        merger=PruMerge(), adaptive=True,
    ),
    Method("pool", "means of runs of neighbours (LLaVolta, at the input)", selector=Cells(True),
           merger=CellMean(Cells(True))),
    Method("scm", "what the text after the images attends to in the second layer (Mini-Monkey)",
           LanguageAttention(1, "after")),
    Method("hired", "early attention of the thumbnail sets crop budgets (HiRED)", TowerAttention(-1), TopK(),
           ByEarlyAttention()),
    Method("retriever", "what the retriever's own late-interaction map finds relevant", Relevance()),
    Method("downsample", "means of square blocks: the honest baseline", selector=Cells(), merger=CellMean()),
    Method("random", "tokens at random, seeded: the honest baseline", Noise()),
    Method("stride", "every so-manyth token: the honest baseline", selector=Stride()),
)  # fmt: skip

METHODS = {method.name: method for method in _ALL}


def method_of(method: str | Method) -> Method:
    """A method by name; one that is given stays as it is.

    Raises
    ------
    UnknownMethodError: there is no method of that name; the message has the nearest one.
    """
    if isinstance(method, Method):
        return method
    if not isinstance(method, str) or method not in METHODS:
        raise UnknownMethodError(f"no visual method {method!r:.60}: {nearest(str(method), METHODS)}")
    return METHODS[method]
