"""Page images to a context: opened, laid out in the question's prompt, encoded, pruned; with text under one budget."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ctxcomp.compressor import Compressor
from ctxcomp.errors import InputError
from ctxcomp.generate.generator import Generator
from ctxcomp.types import Budget, CompressedMixed, CompressedText, CompressedVision, Passage, Stats
from ctxcomp.visual.adapters.base import Tiles
from ctxcomp.visual.asking import lay_out, tiles_of
from ctxcomp.visual.binding import seeing_id
from ctxcomp.visual.encoded import Encoded
from ctxcomp.visual.methods import method_of
from ctxcomp.visual.pages import open_pages
from ctxcomp.visual.prompt import PrunedPrompt
from ctxcomp.visual.together import settle

if TYPE_CHECKING:
    from ctxcomp.visual.pruner import Maps, Scores, VisualPruner


@dataclass(frozen=True, eq=False)
class LaidOut:
    """Pages in the prompt of a question, encoded and whole."""

    pruner: VisualPruner
    query: str
    sizes: tuple[tuple[int, int], ...]
    text: str
    inputs: dict[str, Any]
    encoded: Encoded
    began: float

    def pruned(self, budget: Budget, scores: Scores | None, maps: Maps | None) -> PrunedPrompt:
        """What a budget leaves, with all that another prompt needs to know of the pages."""
        generator = self.pruner.model
        asked = [generator.prompts.text_tokens(self.query)]
        found = self.pruner.prune_encoded(self.inputs, self.encoded, budget, scores=scores, maps=maps, query_ids=asked)
        result = replace(
            found.results[0],
            deeper=found.deeper,
            generator=seeing_id(generator.model),
            sizes=self.sizes,
            positions=self.pruner.positions,
            prompt=(self.text, found.given),
            stats=replace(found.results[0].stats, seconds=time.perf_counter() - self.began),
        )
        return replace(found, results=(result,))


def encoded_pages(pruner: VisualPruner, query: str, pages: Sequence[Any], instruction: str = "") -> LaidOut:
    """Open pages, lay them out and run the tower; see ``VisualPruner.prune_pages``."""
    began = time.perf_counter()
    generator = pruner.model
    if not isinstance(generator, Generator) or generator.processor is None:
        raise InputError(
            "compress needs the model's processor: give VisualPruner(model=Generator.from_pretrained(path)), or prune "
            "the tensors of a processor of your own with prune(inputs, budget)"
        )
    if not isinstance(query, str):
        raise InputError(f"query must be a str (empty for none), got {type(query).__name__}")
    images = open_pages(pages)
    if not images:
        raise InputError("there is no page to compress: give at least one image")
    sizes = tuple((image.width, image.height) for image in images)
    text = generator.prompts.with_pages(query, _unseen(pruner, len(images)), instruction)
    inputs = lay_out(generator, text, images)
    encoded = pruner.encode(inputs, _tiles(generator, sizes, inputs))
    return LaidOut(pruner, query, sizes, text, inputs, encoded, began)


def compress_together(
    pruner: VisualPruner,
    query: str,
    passages: Sequence[Passage],
    pages: Sequence[Any],
    compressor: Compressor[CompressedText],
    budget: Budget,
    *,
    page_scores: Scores | None = None,
    maps: Maps | None = None,
    instruction: str = "",
) -> CompressedMixed:
    """Text passages and page images as one context under one budget of prompt tokens, shared out by ``settle``.

    Parameters
    ----------
    pruner: its ``floor`` and ``temperature`` hold for the sharing too.
    passages: with the scores of the retriever that ``page_scores`` are of, or none.
    pages, maps, instruction: as for ``VisualPruner.prune_pages``.
    compressor: any text method, counting with the model's tokenizer: ``load(counter=generator.tokenizer)``.
    budget: tokens of text and pages together.

    Raises
    ------
    InputError: as for ``VisualPruner.prune_pages``.
    BudgetError: the floors of the pages are over the budget.
    """
    laid_out = encoded_pages(pruner, query, pages, instruction)
    page_tokens = [len(page) for page in laid_out.encoded.pages]
    both = settle(
        query, passages, page_tokens, compressor, budget,
        page_scores=page_scores, floor=pruner.floor, temperature=pruner.temperature,
    )  # fmt: skip
    (seen,) = laid_out.pruned(both.visual, page_scores, maps).results
    counts, visual = both.text.stats, seen.stats
    stats = Stats(
        tokens_in=counts.tokens_in + visual.tokens_in,
        tokens_out=counts.tokens_out + visual.tokens_out,
        seconds=time.perf_counter() - laid_out.began,
        counter=f"{counts.counter} and {visual.counter}",
        method=f"{counts.method} and {visual.method}",
    )
    return CompressedMixed(parts=(both.text, seen), stats=stats)


def _unseen(pruner: VisualPruner, pages: int) -> CompressedVision:
    """A context of pages of which nothing is known but how many there are."""
    none = (0,) * pages
    stats = Stats(0, 0, 0.0, "", method_of(pruner.method).name)
    return CompressedVision(
        features=torch.empty(0, 0), indices=torch.empty(0), pages=torch.empty(0), tokens_in=none, tokens_out=none,
        stats=stats,
    )  # fmt: skip


def _tiles(generator: Generator, sizes: Sequence[tuple[int, int]], inputs: dict[str, Any]) -> Tiles | None:
    """The pages' tiles, if they account for every tile that the processor made."""
    tiles = tiles_of(generator, sizes)
    if tiles is None:
        return None
    made = sum(rows * columns + (rows * columns > 1) for rows, columns in tiles)
    pixels = inputs["pixel_values"]
    return tiles if made == pixels.shape[:-3].numel() else None
