"""Rows as tables, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ctxcomp_eval.summary import Estimate, Row

FULL = "_full"
MINUS = "−"


@dataclass(frozen=True, slots=True)
class Table:
    """Titles and cells, as text."""

    titles: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """As a Markdown table."""
        lines = [self.titles, tuple("---" for _ in self.titles), *self.cells]
        return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def main_table(rows: Sequence[Row], headline: str) -> Table:
    """One line a run: budget, measures with intervals, the headline's difference to the first method, cost.

    ``n`` is the number of questions that count for the headline; a measure over another number has its own beside it.
    """
    columns: dict[str, Callable[[Row], str]] = {
        "method": lambda row: row.label,
        "keep asked": lambda row: f"{row.keep:g}",
        "keep spent": lambda row: f"{row.keep_spent:.3f}",
        "tokens out": lambda row: f"{row.tokens_out:.0f}",
    }
    for name in metric_names(rows):
        columns[f"{name} [95 %]"] = _estimate("metrics", name, headline)
        if name == headline and any(row.minus_first for row in rows):
            columns[f"{name} {MINUS} first"] = _estimate("minus_first", name, headline)
        if any(name in row.minus_full for row in rows):
            columns[f"{name} {MINUS} full"] = _estimate("minus_full", name, headline)
    columns |= {
        "n": lambda row: str(row.metrics[headline].n),
        "ms": lambda row: f"{row.seconds_p50 * 1000:.1f}",
        "fallbacks": lambda row: str(row.fallbacks),
        "unfaithful": lambda row: f"{row.unfaithful} of {row.checked}" if row.checked else "no spans",
    }
    return Table(tuple(columns), tuple(tuple(cell(row) for cell in columns.values()) for row in rows))


def difference_table(rows: Sequence[Row]) -> Table:
    """Every paired difference of every metric: to the first method, and to the full context."""
    cells = [
        (row.label, f"{row.keep:g}", name, str(difference), str(difference.n), verdict(difference))
        for row in rows
        for against, found in ((row.first, row.minus_first), ("full context", row.minus_full))
        for name, difference in ((f"{name} {MINUS} {against}", found[name]) for name in found)
    ]
    return Table(("method", "keep asked", "difference", "mean [95 %]", "n", "verdict"), tuple(cells))


def verdict(difference: Estimate) -> str:
    """Whether the interval excludes 0."""
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "open"


def metric_names(rows: Sequence[Row]) -> list[str]:
    """The metrics of compressed contexts, in the order in which the task gives them."""
    names = dict.fromkeys(name for row in rows for name in row.metrics)
    return [name for name in names if not (name.endswith(FULL) and name.removesuffix(FULL) in names)]


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader of the table must know, in sentences."""
    found = [
        f"Differences are against {rows[0].first}, question by question. Milliseconds are the median share of a "
        "batch, whose keeps have their encoder pass in common: no latency."
    ]
    found += [f"{label} is {name}." for label, name in rows[0].answerers.items() if label != name]
    full = {name: value for name, value in rows[0].metrics.items() if name not in metric_names(rows)}
    found += [f"{name.removesuffix(FULL)} on the full context: {value}." for name, value in full.items()]
    if len(counters := sorted({row.counter for row in rows})) > 1:
        found.append(f"Mind that tokens were counted by different tokenizers: {', '.join(counters)}.")
    for count, what in (
        (sum(row.fallbacks for row in rows), "are fallbacks and not the method's own work"),
        (sum(row.over_budget for row in rows), "have more tokens than were allowed"),
        (sum(row.unfaithful for row in rows), "hold text that is not in the source"),
    ):
        if count:
            found.append(f"Mind that {count} of {sum(row.questions for row in rows)} results {what}.")
    return found


def _estimate(kind: str, name: str, headline: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        found: Estimate | None = getattr(row, kind).get(name)
        if found is None:
            return ""
        return str(found) if found.n == row.metrics[headline].n else f"{found} n={found.n}"

    return cell


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
