"""Picking the tokens of one page for a budget that row ends count in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ctxcomp.visual.allocators import Allocator
from ctxcomp.visual.encoded import View
from ctxcomp.visual.layout import Page
from ctxcomp.visual.selectors import Selector
from ctxcomp.visual.sharing import share

RowEnds = Literal["with_row", "drop"]


@dataclass(frozen=True, eq=False)
class Picked:
    """What stays of a page.

    Parameters
    ----------
    chosen: by the selector, in its order.
    more: row ends, and content that fills the last place of a budget, as they are.
    """

    chosen: Tensor
    more: Tensor


def room_of(page: Page, row_ends: RowEnds) -> int:
    """The most tokens that can stay of a page."""
    return len(page.content) if row_ends == "drop" else len(page)


def pick(
    view: View, scores: Tensor, selector: Selector, allocator: Allocator, budget: int, row_ends: RowEnds
) -> Picked:
    """Exactly ``budget`` tokens of a page, row ends included.

    Parameters
    ----------
    budget: from 0 to ``room_of(page, row_ends)``.
    row_ends: "with_row" keeps the end of every line that keeps a token; "drop" keeps none.
    """
    page = view.page
    nothing = torch.empty(0, dtype=torch.long)
    if budget >= len(page):
        return Picked(page.content, torch.nonzero(page.structural).flatten())
    choose = _chooser(view, scores, selector, allocator, min(budget, len(page.content)))
    if row_ends == "drop" or not page.ends:
        return Picked(choose(budget), nothing)
    low, high = 0, min(budget, len(page.content))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _cost(page, choose(middle)) <= budget else (low, middle - 1)
    chosen = choose(low)
    return Picked(chosen, _filled(page, scores, chosen, budget))


def _chooser(
    view: View, scores: Tensor, selector: Selector, allocator: Allocator, most: int
) -> Callable[[int], Tensor]:
    """Gives the content to keep for any number of tokens up to ``most``."""
    page = view.page
    weights = allocator.weights(view, scores)
    groups = [page.content] if weights is None else [page.crop(number) for number in page.numbers]
    shares = [1.0] if weights is None else weights
    orders: dict[int, Tensor] = {}

    def of_group(i: int, n: int) -> Tensor:
        if not selector.nested:
            return selector.order(view, scores, groups[i], n)
        if i not in orders:
            orders[i] = selector.order(view, scores, groups[i], min(most, len(groups[i])))
        return orders[i][:n]

    def choose(n: int) -> Tensor:
        counts = share(n, shares, [len(group) for group in groups])
        return torch.cat([of_group(i, count) for i, count in enumerate(counts)])

    return choose


def _cost(page: Page, chosen: Tensor) -> int:
    """Tokens that a choice takes, with the ends of its lines."""
    return len(chosen) + len(_ends(page, chosen))


def _ends(page: Page, chosen: Tensor) -> list[int]:
    lines = torch.unique(page.lines[chosen]).tolist()
    return [page.ends[line] for line in lines if line in page.ends]


def _filled(page: Page, scores: Tensor, chosen: Tensor, budget: int) -> Tensor:
    """Row ends of the chosen, and as much more content as the budget still holds, in kept lines if possible."""
    ends = _ends(page, chosen)
    missing = budget - len(chosen) - len(ends)
    left = ~page.structural
    left[chosen] = False
    rest = torch.nonzero(left).flatten()
    rest = rest[torch.argsort(scores[rest], descending=True, stable=True)]
    kept_lines = set(page.lines[chosen].tolist())
    free = [t for t in rest.tolist() if int(page.lines[t]) in kept_lines or int(page.lines[t]) not in page.ends]
    more = free[:missing]
    closed = [t for t in rest.tolist() if t not in set(free)]
    while len(more) < missing and closed:
        # One place is too little for a token and the end of its line: the token comes without.
        token = closed.pop(0)
        more.append(token)
        end = page.ends[int(page.lines[token])]
        if len(more) < missing and end not in more:
            more.append(end)
    return torch.tensor(sorted([*ends, *more]), dtype=torch.long)
