"""The picture: measures against keep, all methods, with intervals."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from ctxcomp.optional import require
from ctxcomp_eval.summary import Row

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7a4fbf", "#8c564b")
"""Okabe and Ito's palette for all eyes, without its yellow and black, and two more."""
GREYS = ("#8a8a8a", "#4d4d4d", "#b0b0b0")
MARKERS = "osD^vPX*"
LEAST_KEEP = 1e-4
"""Where a method that keeps nothing stands on the logarithmic axis."""


def picture(rows: Sequence[Row], title: str, metrics: Sequence[str], plain: Iterable[str] = ()) -> bytes:
    """A PNG with one panel a metric, keep spent on a logarithmic axis, and the 95 % interval as a band.

    Parameters
    ----------
    rows: one or more; those of one method become a line.
    metrics: what the panels show.
    plain: labels of the methods that are drawn in grey, the baselines.

    Raises
    ------
    MissingDependencyError: matplotlib is not installed.
    """
    figures = require("matplotlib.figure", extra="eval")
    lines = {label: sorted(own, key=lambda row: row.keep) for label, own in _by_label(rows)}
    figure = figures.Figure(figsize=(6.4 * len(metrics), 5.0 + 0.17 * len(lines)), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    styles = _styles(list(lines), set(plain))
    for panel, metric in zip(panels, metrics, strict=True):
        for label, own in lines.items():
            _draw(panel, [row for row in own if metric in row.metrics], metric, styles[label])
        _full_context(panel, rows, metric)
        _dress(panel, rows, metric)
    figure.suptitle(_literal(title), fontsize=12)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a setting in a script that the font lacks
        # Without the library's version in it, the same rows give the same file.
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _by_label(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    order = list(dict.fromkeys(row.label for row in rows))
    ordered = sorted(rows, key=lambda row: order.index(row.label))
    return [(label, list(own)) for label, own in groupby(ordered, key=lambda row: row.label)]


def _styles(labels: Sequence[str], plain: set[str]) -> dict[str, dict[str, Any]]:
    """How each method looks: baselines grey and dashed, the others in colour."""
    styles = {}
    for grey in (False, True):
        own = [label for label in labels if (label in plain) is grey]
        for i, label in enumerate(own):
            palette = GREYS if grey else COLOURS
            styles[label] = {
                "color": palette[i % len(palette)],
                "marker": MARKERS[i % len(MARKERS)],
                "linestyle": "--" if grey or i >= len(palette) else "-",
                "label": _literal(label if len(label) <= 60 else label[:57] + "…"),
            }
    return styles


def _draw(panel: Any, own: Sequence[Row], metric: str, style: dict[str, Any]) -> None:
    if not own:
        return
    x = [max(row.keep_spent, LEAST_KEEP) for row in own]
    means, lows, highs = zip(*((m.mean, m.low, m.high) for m in (row.metrics[metric] for row in own)), strict=True)
    panel.plot(x, means, linewidth=1.8, markersize=5, zorder=3, **style)
    panel.fill_between(x, lows, highs, color=style["color"], alpha=0.15, linewidth=0)
    panel.vlines(x, lows, highs, color=style["color"], linewidth=1.2, alpha=0.7, zorder=2)


def _full_context(panel: Any, rows: Sequence[Row], metric: str) -> None:
    full = rows[0].metrics.get(f"{metric}_full")
    if full is not None:
        panel.axhline(full.mean, color="black", linewidth=1, linestyle=":", label="full context")
        panel.text(0.01, full.mean, "full context", transform=panel.get_yaxis_transform(), va="bottom", fontsize=8)


def _dress(panel: Any, rows: Sequence[Row], metric: str) -> None:
    """Axes that say what they show."""
    tickers = require("matplotlib.ticker", extra="eval")
    panel.set_xscale("log")
    asked = sorted({row.keep for row in rows})
    ticks = asked if len(asked) > 1 else [digit * 10**power for power in range(-4, 1) for digit in (1, 2, 5)]
    low, high = panel.get_xlim()
    panel.xaxis.set_major_locator(tickers.FixedLocator([tick for tick in ticks if low <= tick <= high]))
    panel.xaxis.set_major_formatter(tickers.FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_locator(tickers.NullLocator())
    panel.set_xlabel("keep spent: tokens out / tokens in (log scale)")
    panel.set_ylabel(_literal(f"{metric}, mean and 95 % interval"))
    panel.set_ylim(-0.02, 1.02)
    panel.grid(alpha=0.25)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def _literal(text: str) -> str:
    """Without the signs that would begin a formula, and without what has no glyph."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text).replace("$", r"\$")
