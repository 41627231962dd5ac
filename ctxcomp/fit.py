"""The packer: one budget shared out across all units of all passages, never exceeded.

Units are taken in the order of their worth while their token counts add up to the budget. Token counts do not add
up across joins (BPE merges, separators, headers, elision marks), so the text is then put together and counted, and
units are dropped or added until the count is at or under the budget and no further unit fits. Every text that is
returned was itself counted, as a whole.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctxcomp.candidates import Candidates
from ctxcomp.counting import TokenCounter
from ctxcomp.cutting import LEAST, Cut, Worth
from ctxcomp.errors import BudgetError, InputError
from ctxcomp.render import Layout, assemble_bodies, header_of, render, spans_of
from ctxcomp.types import Span

Mask = NDArray[np.bool_]

_CAPITAL = "[A-ZÀ-ÖØ-ÞΑ-ΩА-ЯЁ]"
_SMALL = r"(?!(?:The|A|An|In|On|At|By|For|From|To|Of|It|He|She|They|We|I|This|That|And|But|As)\b)"
PROTECT_PATTERNS = {
    "digits": r"\d",
    "quotes": r"\"[^\"\n]+\"|“[^”\n]+”|«[^»\n]+»|„[^“\n]+“|「[^」\n]+」",
    # A capital inside a sentence, before another capital, or one of several in a word.
    "names": rf"(?:(?<=[^.!?:\s] )|(?<=[^.!?:\s] [\"“‘(])|\b(?={_CAPITAL}\w* {_CAPITAL})|\b(?=\w+{_CAPITAL}))"
    rf"{_SMALL}{_CAPITAL}\w*",
    "negations": r"(?i:\b(?:no|not|never|none|neither|nor|without|cannot|nobody|nothing|nowhere|\w+n['’]t)\b)",
}
"""Named patterns that ``protect`` takes besides regular expressions; the last two know English."""

RECOUNT_TOKENS = 200_000
"""The search for further units that fit ends when this many tokens, or six budgets, were counted (about 0.1 s)."""
CUTS = 4
"""Times that a part of a unit gets less room because separators and headers took more."""
UNITS_PER_TOKEN = 64
"""A trial looks at every unit; looking at this many takes about as long as counting one token."""


@dataclass(frozen=True, kw_only=True)
class FitOptions(Layout):
    r"""How the budget is shared out.

    Parameters
    ----------
    allocate: "global", where the best units win wherever they are, or "passage", where each passage keeps the same
        share of its tokens.
    per_token: order units by score / tokens instead of score: for methods whose score grows with length.
    min_score: units that score lower are left out even if they would fit.
    floor_tokens: each passage's best units, until they reach this many tokens, go before all others.
    cap_tokens: at most this many tokens of each passage (by the sum of its units' counts).
    protect: regular expressions, or "digits", "quotes", "names", "negations"; a unit that holds a match is kept,
        whatever its score. So is one that overlaps a ``[start, end]`` pair of ``Passage.metadata["protect"]``.
    fill: after the first unit that does not fit, go on with later ones that do.
    cut: the first unit that does not fit is cut to what does, where that part is worth more than later units that
        would fill the room: its score times the share of its tokens.
    """

    allocate: Literal["global", "passage"] = "global"
    per_token: bool = False
    min_score: float | None = None
    floor_tokens: int = 0
    cap_tokens: int | None = None
    protect: tuple[str, ...] = ()
    fill: bool = True
    cut: bool = False

    def __post_init__(self) -> None:
        Layout.__post_init__(self)
        for name in ("floor_tokens", "cap_tokens"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(f"{name} must be 0 or more, got {value}")
        protection(self.protected_patterns)

    @property
    def keeps_all(self) -> bool:
        """Whether everything is kept when everything fits."""
        return self.min_score is None and self.cap_tokens is None

    @property
    def protected_patterns(self) -> tuple[str, ...]:
        """The patterns whose matches are kept; methods add their own."""
        return self.protect

    def refine(self, units: Candidates, kept: Mask) -> Mask:
        """A last look at what was chosen; a method may drop units from it."""
        return kept

    def focus(self, units: Candidates, i: int) -> Worth | None:
        """Where a unit that is cut says most, float64 ``[its characters]``; None keeps its head."""
        return None


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was kept: the assembled text, its spans, what is left of each passage, and its token count."""

    text: str
    spans: tuple[Span, ...]
    passage_texts: tuple[str, ...]
    tokens: int


def protection(patterns: tuple[str, ...]) -> re.Pattern[str] | None:
    """The patterns as one; None if there are none.

    Raises
    ------
    InputError: a pattern is not a regular expression, or matches the empty text.
    """
    if isinstance(patterns, str):
        raise InputError(f"protect must be a tuple of patterns, got the str {patterns!r}: write ({patterns!r},)")
    for pattern in patterns:
        try:
            empty = re.compile(PROTECT_PATTERNS.get(pattern, pattern)).match("")
        except re.error as error:
            known = ", ".join(PROTECT_PATTERNS)
            raise InputError(f"protect: {pattern!r} is neither {known} nor a regular expression ({error})") from None
        if empty:
            raise InputError(f"protect: {pattern!r} matches the empty text, so it would protect everything")
    return re.compile("|".join(f"(?:{PROTECT_PATTERNS.get(p, p)})" for p in patterns)) if patterns else None


def fit(
    units: Candidates,
    scores: NDArray[np.float64],
    budget_tokens: int,
    counter: TokenCounter,
    options: FitOptions,
    groups: NDArray[np.int64] | None = None,
) -> Fitted:
    """Choose the units that are worth most and fit.

    Parameters
    ----------
    scores: ``[n]``, finite; higher is kept. Ties go to the earlier unit.
    budget_tokens: the assembled text, headers and marks included, has at most this many.
    groups: int64 ``[n]``, overrides ``options.allocate``: each group keeps the same share of its tokens.

    Raises
    ------
    BudgetError: the protected units alone do not fit.
    """
    costs = _costs(units, counter)
    forced = _protected(units, protection(options.protected_patterns))
    order = _order(units, scores, costs, forced, options, groups)
    kept, tokens = _Packing(units, costs, forced, order, budget_tokens, counter, options).settle()
    if options.cut and (some := _cut_one(units, scores, order, forced, kept, budget_tokens, counter, options)):
        return some
    if not kept.any() and budget_tokens > 0 and len(order):
        return _cut(units, int(order[0]), float(scores[order[0]]), budget_tokens, counter, options)
    refined = options.refine(units, kept.copy())
    rendered = render(units, refined, options)
    if not np.array_equal(refined, kept):
        fewer = counter.count(rendered.text)
        if fewer <= budget_tokens:
            return Fitted(rendered.text, spans_of(units, refined, scores), rendered.passage_texts, fewer)
        rendered = render(units, kept, options)  # a unit less can be an elision mark more
    return Fitted(rendered.text, spans_of(units, kept, scores), rendered.passage_texts, tokens)


def _costs(units: Candidates, counter: TokenCounter) -> NDArray[np.int64]:
    """Tokens of each unit, with the space before it if the source has a gap there."""
    texts = [" " + text if gap else text for text, gap in zip(units.texts, units.gap.tolist(), strict=True)]
    return np.maximum(np.array(counter.count_batch(texts), dtype=np.int64), 1)


def _protected(units: Candidates, pattern: re.Pattern[str] | None) -> Mask:
    forced = np.zeros(len(units), bool)
    for p, passage in enumerate(units.passages):
        spans = list(_explicit(passage.metadata.get("protect", ()), p))
        if pattern is not None:
            spans += [match.span() for match in pattern.finditer(passage.text)]
        if not spans:
            continue
        mine = units.units_of(p)
        starts, ends = np.array(spans, dtype=np.int64).reshape(-1, 2).T
        first = np.searchsorted(units.end[mine], starts, side="right")
        stop = np.searchsorted(units.start[mine], ends, side="left")
        for i, j in zip(first.tolist(), stop.tolist(), strict=True):
            forced[mine][i:j] = True
    return forced


def _explicit(spans: Any, p: int) -> list[tuple[int, int]]:
    try:
        pairs = [(int(a), int(b)) for a, b in spans]
    except (TypeError, ValueError, OverflowError):
        pairs = [(-1, -1)]
    if any(not 0 <= a <= b < 2**63 for a, b in pairs):
        raise InputError(f"passages[{p}].metadata['protect'] must be [start, end] pairs, got {spans!r:.200}")
    return pairs


def _order(
    units: Candidates,
    scores: NDArray[np.float64],
    costs: NDArray[np.int64],
    forced: Mask,
    options: FitOptions,
    groups: NDArray[np.int64] | None,
) -> NDArray[np.int64]:
    """The units that may be kept, best first."""
    worth = scores / costs if options.per_token else scores
    best_first = np.lexsort((np.arange(len(worth)), -worth))
    tier = np.where(forced, 0, 2)
    allowed = np.ones(len(worth), bool)
    if options.floor_tokens:
        before = _taken_before(units.passage, best_first, costs)
        tier = np.where((before < options.floor_tokens) & ~forced, 1, tier)
    if options.cap_tokens is not None:
        allowed = _under_cap(units, best_first, costs, forced, options.cap_tokens, options.fill)
    if options.min_score is not None:
        allowed &= scores >= options.min_score
    key = -worth
    if groups is None and options.allocate == "passage":
        groups = units.passage
    if groups is not None:
        totals = np.bincount(groups, weights=costs)
        key = (_taken_before(groups, best_first, costs) + costs) / totals[groups]
    order = np.lexsort((np.arange(len(worth)), key, tier))
    return order[(allowed | forced)[order]]


def _under_cap(
    units: Candidates,
    best_first: NDArray[np.int64],
    costs: NDArray[np.int64],
    forced: Mask,
    cap_tokens: int,
    fill: bool,
) -> Mask:
    """The best units of each passage, beside its protected ones, that add up to at most ``cap_tokens``."""
    allowed = np.zeros(len(units), bool)
    taken = np.bincount(units.passage[forced], weights=costs[forced], minlength=len(units.passages))
    room: list[float] = (cap_tokens - taken).tolist()
    free = best_first[~forced[best_first]]
    for i, p, cost in zip(free.tolist(), units.passage[free].tolist(), costs[free].tolist(), strict=True):
        if cost <= room[p]:
            room[p] -= cost
            allowed[i] = True
        elif not fill:
            room[p] = 0
    return allowed


def _taken_before(
    groups: NDArray[np.int64], best_first: NDArray[np.int64], costs: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each unit, the tokens of the better units of its group."""
    by_group = best_first[np.argsort(groups[best_first], kind="stable")]
    running = np.cumsum(costs[by_group]) - costs[by_group]
    group = groups[by_group]
    opens = np.ones(len(group), bool)
    opens[1:] = group[1:] != group[:-1]
    before = np.empty(len(costs), np.int64)
    before[by_group] = running - np.repeat(running[opens], np.diff(np.append(np.flatnonzero(opens), len(group))))
    return before


class _Packing:
    """The search for the units that fit, over positions in the order of worth."""

    def __init__(
        self,
        units: Candidates,
        costs: NDArray[np.int64],
        forced: Mask,
        order: NDArray[np.int64],
        budget: int,
        counter: TokenCounter,
        options: FitOptions,
    ) -> None:
        self.units, self.order, self.budget, self.counter, self.options = units, order, budget, counter, options
        self.forced = forced[order]
        self.costs = costs[order] + self._opening_costs()
        self.counted = 0

    def _opening_costs(self) -> NDArray[np.int64]:
        """The separator and the header, charged to the best unit of each passage."""
        opening = np.zeros(len(self.order), np.int64)
        _, best = np.unique(self.units.passage[self.order], return_index=True)
        passages = self.units.passages
        for position in best.tolist():
            p = int(self.units.passage[self.order[position]])
            opening[position] = self.counter.count(self.options.separator + header_of(passages[p], p, self.options))
        return opening

    def settle(self) -> tuple[Mask, int]:
        """Which units are kept, bool ``[n]`` in source order, and the tokens of their text."""
        # Every passage was charged a separator, and the first has none.
        room = self.budget + self.counter.count(self.options.separator) - int(self.costs[self.forced].sum())
        selected = self.forced | self._take(~self.forced, room)
        used = self._count(selected)
        step = 1
        while used > self.budget:
            selected = self._drop(selected, (used - self.budget) * step, used)
            used, step = self._count(selected), step * 2
        selected, used = self._grow(selected, used)
        return self._mask(selected), used

    def _grow(self, selected: Mask, used: int) -> tuple[Mask, int]:
        """Add what still fits; what turns out not to fit when counted is not tried again."""
        banned = np.zeros_like(selected)
        while self.counted < max(RECOUNT_TOKENS, 6 * self.budget):
            extra = np.flatnonzero(self._take(~selected & ~banned, self.budget - used))
            if not len(extra):
                break
            while len(extra):
                trial = selected.copy()
                trial[extra] = True
                tokens = self._count(trial)
                if tokens <= self.budget:
                    selected, used = trial, tokens
                    break
                banned[extra] |= len(extra) == 1
                extra = extra[: len(extra) // 2]
            if not self.options.fill and banned.any():
                break
        return selected, used

    def _take(self, open_: Mask, room: int) -> Mask:
        """The best open units whose costs add up to at most ``room``."""
        taken = np.zeros(len(open_), bool)
        left = np.flatnonzero(open_)
        while len(left) and room > 0:
            total = np.cumsum(self.costs[left])
            n = int(np.searchsorted(total, room, side="right"))
            taken[left[:n]] = True
            if not self.options.fill:
                break
            room -= int(total[n - 1]) if n else 0
            left = left[n + 1 :]
            left = left[self.costs[left] <= room]
        return taken

    def _drop(self, selected: Mask, tokens: int, used: int) -> Mask:
        """Without the worst units that cost at least ``tokens`` together."""
        worst_first = np.flatnonzero(selected & ~self.forced)[::-1]
        if not len(worst_first):
            raise BudgetError(
                f"the protected text alone needs {used} tokens and the budget is {self.budget}: "
                "raise the budget or protect less"
            )
        n = int(np.searchsorted(np.cumsum(self.costs[worst_first]), tokens, side="left")) + 1
        fewer = selected.copy()
        fewer[worst_first[:n]] = False
        return fewer

    def _mask(self, selected: Mask) -> Mask:
        kept = np.zeros(len(self.units), bool)
        kept[self.order[selected]] = True
        return kept

    def _count(self, selected: Mask) -> int:
        tokens = self.counter.count(render(self.units, self._mask(selected), self.options).text)
        self.counted += tokens + 1 + len(self.units) // UNITS_PER_TOKEN
        return tokens


def _cut_one(
    units: Candidates,
    scores: NDArray[np.float64],
    order: NDArray[np.int64],
    forced: Mask,
    kept: Mask,
    budget: int,
    counter: TokenCounter,
    options: FitOptions,
) -> Fitted | None:
    """The units before the first that does not fit, and the best part of that one; None where that is worth less."""
    missing = np.flatnonzero(~kept[order])
    if not len(missing) or not Cut.suits(units, i := int(order[missing[0]])):
        return None
    base = kept.copy()
    base[order[missing[0] :]] = forced[order[missing[0] :]]
    room = budget - counter.count(render(units, base, options).text)
    if room < LEAST:
        return None
    one = Cut(units, i, counter, options.focus(units, i))
    others = float(scores[kept & ~base].clip(0).sum())
    for _ in range(CUTS):
        window = one.window(room)
        if window[0] == window[1] or float(scores[i]) * one.share(window) <= others:
            return None
        parts, fresh, origin = one.split(window, base)
        rendered = render(parts, fresh, options)
        tokens = counter.count(rendered.text)
        if tokens <= budget:
            return Fitted(rendered.text, spans_of(parts, fresh, scores[origin]), rendered.passage_texts, tokens)
        room -= tokens - budget
    return None


def _cut(units: Candidates, i: int, score: float, budget: int, counter: TokenCounter, options: FitOptions) -> Fitted:
    """The head of the best unit, when no whole unit fits: cut after a word, or inside one that is all there is."""
    p, start, end = int(units.passage[i]), int(units.start[i]), int(units.end[i])
    passage = units.passages[p]
    bodies = [""] * len(units.passages)

    def attempt(stop: int) -> Fitted:
        bodies[p] = passage.text[start:stop]
        rendered = assemble_bodies(units.passages, bodies, options)
        spans = (Span(p, start, stop, score),)
        return Fitted(rendered.text, spans, rendered.passage_texts, counter.count(rendered.text))

    words = [start + match.start() for match in re.finditer(r"(?<=\S)\s", passage.text[start:end])]
    inside = [i for i in range(start + 1, end) if not unicodedata.combining(passage.text[i])]
    for stops in (words, inside):
        low, high = 0, len(stops)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if attempt(stops[middle]).tokens <= budget else (low, middle)
        # Counts are not quite monotone in the cut: step back until one really fits.
        for stop in reversed(stops[max(low - 4, 0) : low]):
            if (fitted := attempt(stop)).tokens <= budget:
                return fitted
    return Fitted("", (), ("",) * len(units.passages), 0)
