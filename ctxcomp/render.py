"""Kept units to text and spans: the one place where a text context is put together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxcomp.candidates import JOINS, Candidates
from ctxcomp.errors import InputError
from ctxcomp.types import Passage, Span

_HEADER_FIELDS = frozenset({"id", "title", "score", "number"})
_ELISION_FIELDS = frozenset({"id", "title", "number", "units", "start", "end"})
_Run: TypeAlias = tuple[int, int, int, int, str]
"""Kept neighbours: the first unit left out before them, their first unit, start and end in characters, join before."""

_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Thai, Lao, Burmese, Khmer, kana and Chinese characters: words stand side by side."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    r"""How kept text is put together.

    Parameters
    ----------
    separator: stands between passages.
    header: template put before each passage of which something is kept, for example ``"[{id}] {title}\n"``; fields
        ``id``, ``title``, ``score``, ``number`` (from 1).
    elision: template that marks left-out text inside a passage, for example ``"[…]"`` or
        ``"[… {units} left out of {id}:{start}-{end}]"``; fields as above without ``score``, and ``units``,
        ``start``, ``end`` (characters of the source). Both count against the budget.
    """

    separator: str = "\n\n"
    header: str | None = None
    elision: str | None = None

    def __post_init__(self) -> None:
        _check_template("header", self.header, _HEADER_FIELDS)
        _check_template("elision", self.elision, _ELISION_FIELDS)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A context put together: its text and, for each passage, what is left of it ("" where nothing is)."""

    text: str
    passage_texts: tuple[str, ...]


def render(units: Candidates, kept: NDArray[np.bool_], layout: Layout) -> Rendered:
    """Put the kept units together in source order.

    Neighbouring units keep the source's own gap between them; units that had others between them are joined by the
    widest gap that was there (nothing, a space, a newline or a blank line), around the elision mark if there is one.

    Parameters
    ----------
    kept: bool ``[n]``.
    """
    bodies = [""] * len(units.passages)
    chosen = np.flatnonzero(kept)
    starts_run = np.ones(len(chosen), bool)
    starts_run[1:] = (np.diff(chosen) > 1) | (np.diff(units.passage[chosen]) > 0)
    first = chosen[starts_run]
    last = chosen[np.append(starts_run[1:], np.ones(min(len(chosen), 1), bool))]
    edges = np.searchsorted(units.passage[first], np.arange(len(bodies) + 1))
    opens = np.ones(len(first), bool)
    opens[1:] = np.diff(units.passage[first]) > 0
    # The units left out before each run are ``since .. first - 1``; a passage's first unit has no gap before it.
    since = np.where(opens, units.bounds[units.passage[first]], np.append(0, last[:-1] + 1))
    joins = _joins(units, since + opens, first + 1)
    columns = (since, first, units.start[first], units.end[last])
    runs = list(zip(*(column.tolist() for column in columns), joins, strict=True))
    for p in np.unique(units.passage[first]).tolist():
        a, b = int(edges[p]), int(edges[p + 1])
        bodies[p] = "".join(_body(units, p, runs[a:b], int(last[b - 1]) + 1, layout))
    return assemble_bodies(units.passages, bodies, layout)


def assemble_bodies(passages: Sequence[Passage], bodies: Sequence[str], layout: Layout) -> Rendered:
    """Join what is left of each passage, with its header, by the separator."""
    parts = [header_of(passages[p], p, layout) + body for p, body in enumerate(bodies) if body]
    return Rendered(layout.separator.join(parts), tuple(bodies))


def header_of(passage: Passage, p: int, layout: Layout) -> str:
    """The header of passage number ``p``, "" without a template."""
    if not layout.header:
        return ""
    score = "" if passage.score is None else f"{passage.score:.4g}"
    return layout.header.format(id=passage.id, title=passage.title or "", score=score, number=p + 1)


def spans_of(units: Candidates, kept: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[Span, ...]:
    """One span for each kept unit, in source order."""
    rows = (units.passage, units.start, units.end, scores)
    return tuple(Span(*row) for row in zip(*(column[kept].tolist() for column in rows), strict=True))


def _body(units: Candidates, p: int, runs: list[_Run], after: int, layout: Layout) -> Iterator[str]:
    """The parts of one passage; ``after`` is the first unit that follows its last run."""
    text = units.passages[p].text
    opens, before = True, 0
    for since, first, start, end, join in runs:
        if not opens:
            yield join or " " * _runs_together(text[before - 1], text[start])
        before = end
        if layout.elision and since < first:
            yield _mark(units, p, since, first, layout.elision) + join
        yield text[start:end]
        opens = False
    stop = int(units.bounds[p + 1])
    if layout.elision and after < stop:
        yield JOINS[int(units.gap[after:stop].max())] + _mark(units, p, after, stop, layout.elision)


def _runs_together(left: str, right: str) -> bool:
    """Whether two characters that the source kept apart would make one word or number."""
    return left.isalnum() and right.isalnum() and not _UNSPACED.search(left + right)


def _joins(units: Candidates, a: NDArray[np.int64], b: NDArray[np.int64]) -> list[str]:
    """The widest gap before any of the units ``a .. b - 1``, for each pair."""
    gaps = np.append(units.gap, np.int8(0))  # an index of reduceat may not be the length
    widest = np.maximum.reduceat(gaps, np.column_stack([a, b]).ravel())[::2] if len(a) else gaps[:0]
    return [JOINS[gap] for gap in widest.tolist()]


def _mark(units: Candidates, p: int, a: int, b: int, template: str) -> str:
    """The mark for the left-out units ``a .. b - 1`` of passage ``p``."""
    passage = units.passages[p]
    return template.format(
        id=passage.id, title=passage.title or "", number=p + 1, units=b - a,
        start=int(units.start[a]), end=int(units.end[b - 1]),
    )  # fmt: skip


def _check_template(name: str, template: str | None, allowed: frozenset[str]) -> None:
    """Only plain field names: a template may come over the network, and must not reach into objects."""
    if template is None:
        return
    try:
        fields = {field for _, field, spec, convert in Formatter().parse(template) if field is not None}
        plain = all(not spec and not convert for _, _, spec, convert in Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"{name} is not a template: {error}; write a literal brace as {{{{ or }}}}") from None
    if not plain or fields - allowed:
        raise InputError(f"{name} may use {{{'}, {'.join(sorted(allowed))}}} and nothing else, got {template!r}")
