"""The pruner: pages in a prompt -> one budget over all pages and their crops -> a shorter prompt."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.fields import check_fields
from ctxcomp.types import Budget, CompressedVision, Stats
from ctxcomp.visual.adapters import adapter_for
from ctxcomp.visual.adapters.base import Adapter, Tiles
from ctxcomp.visual.allocators import density
from ctxcomp.visual.encoded import Encoded, View
from ctxcomp.visual.language import language_attention
from ctxcomp.visual.mergers import outlier_share
from ctxcomp.visual.methods import Method, method_of
from ctxcomp.visual.pick import Picked, RowEnds, pick, room_of
from ctxcomp.visual.prompt import Positions, PrunedPrompt, put_together, text_after_images, with_mask, without_pixels
from ctxcomp.visual.relevance import map_at
from ctxcomp.visual.sharing import relevance_weights, share

Scores = Sequence[float | None]
Maps = Sequence[Tensor | None]


@dataclass(frozen=True, kw_only=True)
class VisualPruner:
    """Keeps the visual tokens of retrieved pages that a budget has room for.

    Parameters
    ----------
    model: a vision-language model of transformers, of one of ``families()``, or a ``Generator`` with one; nothing in
        it is patched.
    method: a name of ``METHODS``, or a ``Method`` of your own.
    floor: tokens that every page keeps at least, >= 0 (a smaller page is kept whole).
    temperature: > 0; the lower, the more of the budget goes to the best-scored pages.
    information: whether pages with fewer near-copies among their tokens get more.
    guide: weight of the retriever's maps against the method's own scores, in [0, 1], where maps are given.
    row_ends: "with_row" keeps the row end of each line that keeps a token; "drop" keeps none.
    positions: "original" leaves every token where it stood in the full prompt, so that the answer is the full model's
        with the dropped tokens hidden; "contiguous" closes the gaps.
    """

    model: Any
    method: str | Method = "globalcom2"
    floor: int = 1
    temperature: float = 1.0
    information: bool = True
    guide: float = 0.5
    row_ends: RowEnds = "with_row"
    positions: Positions = "original"

    def __post_init__(self) -> None:
        check_fields(self)
        method_of(self.method)
        if self.floor < 0 or self.temperature <= 0 or not 0 <= self.guide <= 1:
            raise InputError(
                f"floor must be >= 0, temperature > 0 and guide in [0, 1]; got {self.floor}, {self.temperature} and "
                f"{self.guide}"
            )
        self.adapter  # noqa: B018 - which refuses what cannot be pruned

    @property
    def adapter(self) -> Adapter:
        """How this model's prompts are laid out."""
        from ctxcomp.generate.generator import Generator

        return adapter_for(self.model.model if isinstance(self.model, Generator) else self.model)

    def compress(self, query: str, pages: Sequence[Any], budget: Budget, **options: Any) -> CompressedVision:
        """The pages as a context for ``Generator.generate(query, context)``; any other question can be asked of it too.

        Parameters and errors are those of ``prune_pages``.
        """
        return self.prune_pages(query, pages, budget, **options).results[0]

    def prune_pages(
        self,
        query: str,
        pages: Sequence[Any],
        budget: Budget,
        *,
        scores: Scores | None = None,
        maps: Maps | None = None,
        instruction: str = "",
    ) -> PrunedPrompt:
        """Prune page images, laid out in the prompt that a generator makes for the question.

        Parameters
        ----------
        query: what the pages are for; "" for none.
        pages: paths, bytes of image files, or ``PIL.Image``s.
        budget, scores, maps: as for ``prune``.
        instruction: the one that ``generate`` will get.

        Raises
        ------
        InputError: ``model`` is no Generator with a processor, a page cannot be read, or an argument does not fit.
        BudgetError: the budget cannot hold the floor of every page.
        """
        from ctxcomp.visual.compressing import encoded_pages

        return encoded_pages(self, query, pages, instruction).pruned(budget, scores, maps)

    def prune(
        self,
        inputs: Mapping[str, Any],
        budget: Budget | None,
        *,
        scores: Scores | None = None,
        maps: Maps | None = None,
        tiles: Tiles | None = None,
        query_ids: Sequence[Sequence[int]] | None = None,
    ) -> PrunedPrompt:
        """Prune the pages of a batch of prompts.

        Parameters
        ----------
        inputs: the tensors of the model's processor, for one prompt or several.
        budget: visual tokens that each prompt may keep, row ends included; all pages of a prompt share it. None, for
            "prumerge" alone, lets each page keep its outliers.
        scores: the retriever's score of each page; higher is better, None where it has none.
        maps: the retriever's relevance of each page as a map ``[h, w]``, see ``maxsim_map``; None where there is none.
        tiles: rows and columns of each page's tiles, for InternVL, Idefics3, SmolVLM and Gemma 3, whose tensors do
            not say; without it each run of image tokens is a page.
        query_ids: the question's ids in each prompt; without it the text after the last page.

        Raises
        ------
        InputError: the inputs are not what the model's processor makes, or an argument does not fit them.
        BudgetError: the budget cannot hold the floor of every page.
        """
        encoded = self.encode(inputs, tiles)
        return self.prune_encoded(inputs, encoded, budget, scores=scores, maps=maps, query_ids=query_ids)

    def encode(self, inputs: Mapping[str, Any], tiles: Tiles | None = None) -> Encoded:
        """Run the vision tower once, hearing what the method reads; for several budgets over the same pages."""
        adapter = self.adapter
        adapter.check(inputs)
        return adapter.encode(with_mask(inputs), method_of(self.method).tower_layers, tiles)

    def prune_encoded(
        self,
        inputs: Mapping[str, Any],
        encoded: Encoded,
        budget: Budget | None,
        *,
        scores: Scores | None = None,
        maps: Maps | None = None,
        query_ids: Sequence[Sequence[int]] | None = None,
    ) -> PrunedPrompt:
        """As ``prune``, with pages that are encoded already."""
        began = time.perf_counter()
        if not isinstance(budget, Budget) and not (budget is None and method_of(self.method).adaptive):
            raise InputError(f"budget must be Budget(tokens=N) or Budget(keep=F), got {type(budget).__name__}")
        self._check(encoded, scores, maps)
        inputs = with_mask(inputs)
        adapter, method = self.adapter, method_of(self.method)
        if maps is not None:
            method = method.guided(self.guide)
        with torch.no_grad():
            views = self._views(adapter, inputs, encoded, method, maps, query_ids)
            budgets = (
                [self._natural(view, method) for view in views]
                if budget is None
                else self._budgets(encoded, views, budget, scores)
            )
            kept: list[Tensor] = []
            features: list[Tensor] = []
            deeper: list[list[Tensor]] = []
            for view, room in zip(views, budgets, strict=True):
                tokens, mixed = self._page(view, method, room, encoded)
                kept.append(tokens + view.span[0])
                features.append(mixed[0])
                deeper.append(mixed[1:])
            whole = torch.cat(kept)
            mask = torch.zeros(len(encoded.features), dtype=torch.bool)
            mask[whole] = True
            made, gapped = put_together(adapter, inputs, mask, self.positions)
        layers = tuple(torch.cat([one[i] for one in deeper]) for i in range(len(encoded.deeper)))
        seconds = time.perf_counter() - began
        return PrunedPrompt(
            adapter=adapter,
            inputs=made,
            features=torch.cat(features),
            deeper=layers,
            results=self._results(encoded, kept, features, seconds),
            encoded=encoded,
            kept=whole,
            gapped=gapped,
            given=without_pixels(inputs),
            seconds=seconds,
        )

    def _check(self, encoded: Encoded, scores: Scores | None, maps: Maps | None) -> None:
        for name, given in (("scores", scores), ("maps", maps)):
            if given is not None and len(given) != len(encoded.pages):
                raise InputError(f"{name} must be one for each page: got {len(given)} for {len(encoded.pages)} pages")
        for score in scores or ():
            if score is not None and not (isinstance(score, (int, float)) and torch.isfinite(torch.tensor(score))):
                raise InputError(f"a page's score must be a finite number or None, got {score!r:.50}")
        if maps is not None and not method_of(self.method).ranks:
            raise InputError(
                f"{method_of(self.method).name!r} chooses tokens without scores, so maps cannot guide it: "
                "use 'retriever' or a method that ranks tokens, or leave maps out"
            )

    def _views(
        self,
        adapter: Adapter,
        inputs: Mapping[str, Any],
        encoded: Encoded,
        method: Method,
        maps: Maps | None,
        query_ids: Sequence[Sequence[int]] | None,
    ) -> list[View]:
        starts = encoded.starts
        embed = adapter.language.get_input_embeddings()
        ids, mask = inputs["input_ids"].tolist(), inputs["attention_mask"].tolist()
        if query_ids is not None and len(query_ids) != len(ids):
            raise InputError(f"query_ids must be one for each prompt: got {len(query_ids)} for {len(ids)} prompts")
        queries = []
        for i, row in enumerate(ids):
            asked = query_ids[i] if query_ids is not None else text_after_images(row, mask[i], adapter.image_token)
            queries.append(embed(torch.tensor(asked, dtype=torch.long, device=inputs["input_ids"].device)))
        heard = method.scorer.language_layer
        attention = None if heard is None else language_attention(adapter, inputs, encoded, *heard)
        views = []
        for i, page in enumerate(encoded.pages):
            start, end = starts[i], starts[i + 1]
            view = View(page, encoded.features[start:end], encoded.signals, (start, end), queries[encoded.samples[i]])
            view.seed = i - encoded.samples.index(encoded.samples[i])
            view.attention = None if attention is None else attention[start:end]
            given = None if maps is None else maps[i]
            view.relevance = None if given is None else map_at(given, page, i)
            views.append(view)
        return views

    def _budgets(self, encoded: Encoded, views: Sequence[View], budget: Budget, scores: Scores | None) -> list[int]:
        """Tokens of each page: retrieval score x information x size, with the floor."""
        rooms = [room_of(page, self.row_ends) for page in encoded.pages]
        budgets = [0] * len(rooms)
        for sample in range(max(encoded.samples) + 1):
            mine = [i for i, owner in enumerate(encoded.samples) if owner == sample]
            total = budget.resolve(sum(len(encoded.pages[i]) for i in mine))
            given = None if scores is None else [scores[i] for i in mine]
            weights = relevance_weights(given, len(mine), self.temperature)
            if self.information and len(mine) > 1:
                facts = [density(views[i], views[i].page.content) for i in mine]
                weights = [weight * fact for weight, fact in zip(weights, facts, strict=True)]
            sized = [weight * rooms[i] for weight, i in zip(weights, mine, strict=True)]
            parts = share(total, sized, [rooms[i] for i in mine], [min(self.floor, rooms[i]) for i in mine])
            for i, part in zip(mine, parts, strict=True):
                budgets[i] = part
        return budgets

    def _natural(self, view: View, method: Method) -> int:
        """Tokens that a page keeps by itself: its outliers, and one for what is dropped."""
        content = view.page.content
        wanted = int(len(content) * outlier_share(method.scorer.score(view)[content])) + 1
        return min(max(wanted, self.floor), room_of(view.page, self.row_ends))

    def _page(self, view: View, method: Method, room: int, encoded: Encoded) -> tuple[Tensor, list[Tensor]]:
        """The kept tokens of a page, rising, and their features: the first layer's and the deeper ones'."""
        sources = [view.features, *(one[view.span[0] : view.span[1]] for one in encoded.deeper)]
        if room >= len(view.page):
            return torch.arange(len(view.page)), sources
        scores = method.scorer.score(view)
        if not torch.isfinite(scores[view.page.content]).all():
            raise InputError(f"{method.name} gave scores that are not finite: the features or maps are damaged")
        picked = pick(view, scores, method.selector, method.allocator, room, self.row_ends)
        weights = method.merger.weights(view, scores, picked.chosen)
        tokens, order = torch.cat([picked.chosen, picked.more]).sort()
        return tokens, [_mixed(source, picked, weights)[order.to(source.device)] for source in sources]

    def _results(
        self, encoded: Encoded, kept: Sequence[Tensor], features: Sequence[Tensor], seconds: float
    ) -> tuple[CompressedVision, ...]:
        results = []
        prompts = max(encoded.samples) + 1
        for sample in range(prompts):
            mine = [i for i, owner in enumerate(encoded.samples) if owner == sample]
            first = encoded.starts[mine[0]]
            tokens_in = tuple(len(encoded.pages[i]) for i in mine)
            tokens_out = tuple(len(kept[i]) for i in mine)
            results.append(
                CompressedVision(
                    features=torch.cat([features[i] for i in mine]),
                    indices=torch.cat([kept[i] for i in mine]) - first,
                    pages=torch.arange(len(mine)).repeat_interleave(torch.tensor(tokens_out)),
                    tokens_in=tokens_in,
                    tokens_out=tokens_out,
                    stats=Stats(
                        sum(tokens_in), sum(tokens_out), seconds / prompts, self._counter, method_of(self.method).name
                    ),
                )
            )
        return tuple(results)

    @property
    def _counter(self) -> str:
        return f"visual tokens of {self.adapter.model.config.model_type}"


def _mixed(source: Tensor, picked: Picked, weights: Tensor | None) -> Tensor:
    """Features of what was picked, in its order; those of a merged token are a weighted sum."""
    if weights is None:
        return source[torch.cat([picked.chosen, picked.more]).to(source.device)]
    merged = (weights.to(source.device) @ source.float()).to(source.dtype)
    return torch.cat([merged, source[picked.more.to(source.device)]])
