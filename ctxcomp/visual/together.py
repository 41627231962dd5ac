"""Text passages and page images under one budget of prompt tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ctxcomp.compressor import Compressor
from ctxcomp.errors import InputError
from ctxcomp.types import Budget, CompressedText, Passage
from ctxcomp.visual.sharing import relevance_weights, share


@dataclass(frozen=True)
class Together:
    """A text context and what it leaves for the pages.

    Parameters
    ----------
    text: the compressed passages.
    visual: the budget of all pages, for ``VisualPruner.prune``.
    page_scores: the pages' scores on the scale of the passages', for its ``scores=``.
    """

    text: CompressedText
    visual: Budget
    page_scores: tuple[float | None, ...]

    @property
    def tokens(self) -> int:
        """Tokens that text and pages may take in all."""
        return self.text.stats.tokens_out + int(self.visual.tokens or 0)


def settle(
    query: str,
    passages: Sequence[Passage],
    page_tokens: Sequence[int],
    compressor: Compressor[CompressedText],
    budget: Budget,
    *,
    page_scores: Sequence[float | None] | None = None,
    floor: int = 1,
    temperature: float = 1.0,
) -> Together:
    """Share one budget between passages and pages by retrieval score and size, then let pages have what text leaves.

    Both are weighed on one scale, so passages and pages need scores of one retriever, or none at all. The text is
    compressed to its part; whatever it does not use, since text comes in whole sentences, goes to the pages. Text and
    visual tokens together are never over the budget.

    Parameters
    ----------
    passages: retrieved texts, with ``score`` where there is one.
    page_tokens: visual tokens of each retrieved page before pruning, >= 1.
    compressor: any method of ``ctxcomp.load``, counting with the tokenizer of the vision-language model.
    budget: tokens of text and pages together.
    page_scores: of each page.
    floor: tokens that every page keeps at least.
    temperature: > 0; the lower, the more goes to the best-scored.

    Raises
    ------
    InputError: the scores do not fit the pages.
    BudgetError: the floors of the pages are over the budget.
    """
    if page_scores is not None and len(page_scores) != len(page_tokens):
        raise InputError(f"page_scores must be one for each page: got {len(page_scores)} for {len(page_tokens)} pages")
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in page_tokens):
        raise InputError(f"page_tokens are whole numbers from 1, got {list(page_tokens)}")
    whole = compressor.compress(query, passages, Budget(keep=1.0))
    texts = [compressor.compress("", [one], Budget(keep=1.0)).stats.tokens_in for one in passages]
    if texts:  # what stands between passages is theirs too
        texts[0] += max(whole.stats.tokens_in - sum(texts), 0)
    total = budget.resolve(whole.stats.tokens_in + sum(page_tokens))
    scores = [*(one.score for one in passages), *(page_scores or [None] * len(page_tokens))]
    sizes = [*texts, *page_tokens]
    weights = relevance_weights(scores, len(sizes), temperature)
    sized = [weight * size for weight, size in zip(weights, sizes, strict=True)]
    floors = [0] * len(texts) + [min(floor, n) for n in page_tokens]
    parts = share(total, sized, sizes, floors)
    text = compressor.compress(query, passages, Budget(tokens=sum(parts[: len(texts)])))
    left = min(total - text.stats.tokens_out, sum(page_tokens))
    return Together(text, Budget(tokens=left), tuple(page_scores or [None] * len(page_tokens)))
