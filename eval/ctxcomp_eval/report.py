"""The report: one page that needs nothing else, with the tables, the picture and examples side by side."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from html import escape

from ctxcomp.types import Span
from ctxcomp_eval import provenance
from ctxcomp_eval.data import Example
from ctxcomp_eval.examples import Duel, Duels, Side
from ctxcomp_eval.summary import PACKAGES, Row
from ctxcomp_eval.tables import Table, difference_table, main_table, metric_names, notes

ABRIDGE_CHARACTERS = 600
"""Dropped stretches longer than this show their two ends only, unless the answer is in them."""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Nothing is fetched and no script runs, whatever the data."""
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1e21; background: #fff; max-width: 1360px; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; } img { max-width: 100%; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88em; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25em .7em; border-bottom: 1px solid #dfe3e8; white-space: nowrap; }
th { border-bottom: 2px solid #9aa4b1; } tr:hover td { background: #f5f7fa; }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 12em; }
td.better { color: #00693e; font-weight: 600; } td.worse { color: #a8321a; font-weight: 600; }
details { border: 1px solid #dfe3e8; border-radius: 6px; padding: .4em .8em; margin: .5em 0; }
details details { border-style: dashed; } summary { cursor: pointer; } .note { color: #5c6670; font-size: .9em; }
.sides { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.5em; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; color: #78828d; }
.text mark, .key mark { background: #e3f1ff; color: #10151a; border-radius: 2px; }
.answer { background: #ffe08a; color: #4a3c00; border-radius: 2px; } .key { color: #78828d; }
.win { color: #00693e; font-weight: 600; } .loss { color: #a8321a; font-weight: 600; }
@media (max-width: 760px) { .sides { grid-template-columns: 1fr; } }
"""


def page(title: str, rows: Sequence[Row], headline: str, png: bytes, found: Duels | None) -> str:
    """The whole report as HTML; everything that comes from data or settings is escaped.

    Parameters
    ----------
    rows: the runs, one or more, in the order of the table.
    headline: the metric that the examples were chosen by.
    png: the picture.
    found: wins and losses of the first method against another; None to leave them out.
    """
    name = _text(title)
    image = base64.b64encode(png).decode()
    versions = provenance.versions(*PACKAGES)
    differences = difference_table(rows)
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>ctxcomp eval: {name}</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>',
        f"<h1>{name}</h1>",
        f"<p>{rows[0].questions} questions, {rows[0].tokens_in:.0f} tokens in on average ({_text(rows[0].counter)}). "
        f"Measures: {_text(', '.join(metric_names(rows)))}; brackets hold bootstrap 95 % intervals.</p>",
        f'<img alt="{_text(headline)} against keep" src="data:image/png;base64,{image}">',
        f"<h2>Results</h2>{_table(main_table(rows, headline))}",
        *(f'<p class="note">{_text(note)}</p>' for note in notes(rows)),
        *([f"<h2>Paired differences</h2>{_table(differences)}"] if differences.cells else []),
        *([_duels(found, headline)] if found else []),
        f'<h2>Where it comes from</h2><p class="note">commit {_text(provenance.commit())}; {_text(versions)}; '
        f"{_text(provenance.processor())}; {provenance.today()}</p>",
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(title)}</th>" for title in table.titles)
    lines = ("".join(_td(cell) for cell in cells) for cells in table.cells)
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _td(cell: str) -> str:
    return f'<td class="{cell}">{cell}</td>' if cell in ("better", "worse") else f"<td>{_text(cell)}</td>"


def _duels(found: Duels, headline: str) -> str:
    total = f"{found.wins} wins and {found.losses} losses of {found.first} against {found.second}"
    blocks = "\n".join(_duel(duel) for duel in found.shown)
    key = (
        '<p class="key"><mark>kept</mark> · dropped · '
        '<span class="answer">an accepted answer, wherever it stands</span> · ★ gold passage</p>'
    )
    return f"<h2>Wins and losses</h2><p>At keep {found.keep:g}, by {_text(headline)}: {_text(total)}. " + (
        f"{len(found.shown)} of them:</p>{key}\n{blocks}" if found.shown else "</p>"
    )


def _duel(duel: Duel) -> str:
    example = duel.example
    word = "win" if duel.margin > 0 else "loss"
    answers = " / ".join(example.answers[:6]) or "none given"
    sides = "".join(_side(side, example) for side in (duel.first, duel.second))
    return (
        f'<details><summary><span class="{word}">{word} {duel.margin:+.2f}</span> '
        f"<bdi>{_text(example.question[:300] or '(no question)')}</bdi></summary>"
        f'<p>Answers: <bdi class="answer">{_text(answers[:500])}</bdi> <span class="note">'
        f'({_text(example.id)})</span></p><div class="sides">{sides}</div></details>'
    )


def _side(side: Side, example: Example) -> str:
    measures = ", ".join(f"{name} {value:.2f}" for name, value in side.outcome.metrics.items())
    said = "".join(
        f"<br>{_text(label)} says: <bdi>{_text(text[:500]) or '(nothing)'}</bdi>"
        for label, text in side.outcome.predictions.items()
    )
    head = f'<h3>{_text(side.label)}</h3><p class="note">{_text(measures)}<br>{_text(str(side.result.stats))}{said}</p>'
    if side.result.spans is None:
        return f'<div>{head}<div class="text"><mark>{_text(side.result.text)}</mark></div></div>'
    spans: list[list[Span]] = [[] for _ in example.passages]
    for span in side.result.spans:
        spans[span.passage].append(span)
    blocks = [_passage(example, i, own) for i, own in enumerate(spans)]
    kept = "\n".join(block for block, own in zip(blocks, spans, strict=True) if own)
    dropped = "\n".join(block for block, own in zip(blocks, spans, strict=True) if not own)
    count = sum(not own for own in spans)
    rest = f"<details><summary>{count} passages without kept text</summary>{dropped}</details>" if count else ""
    return f"<div>{head}{kept or '<p>Nothing was kept.</p>'}{rest}</div>"


def _passage(example: Example, index: int, spans: Sequence[Span]) -> str:
    passage = example.passages[index]
    name = " ".join(filter(None, (f"{index + 1}.", passage.title or passage.id, "★" * (index in example.gold))))
    body = "".join(_pieces(passage.text, spans, example.answers))
    return f'<p class="note">{_text(name)}</p><div class="text" dir="auto">{body}</div>'


def _pieces(text: str, spans: Sequence[Span], answers: Sequence[str]) -> Iterator[str]:
    """The text in kept and dropped stretches, the answers marked in both."""
    pattern = _answers(answers)
    cursor = 0
    for span in (*spans, None):
        start, end = (span.start, span.end) if span else (len(text), len(text))
        if gap := text[cursor:start]:
            long = len(gap) > ABRIDGE_CHARACTERS and not (pattern and pattern.search(gap))
            yield _abridged(gap) if long else _marked(gap, pattern)
        if end > start:
            yield f"<mark>{_marked(text[start:end], pattern)}</mark>"
        cursor = end


def _abridged(text: str) -> str:
    ends = ABRIDGE_CHARACTERS // 3
    return f"{_text(text[:ends])} [… {len(text) - 2 * ends:,} characters …] {_text(text[-ends:])}"


def _answers(answers: Sequence[str]) -> re.Pattern[str] | None:
    found = [re.escape(answer) for answer in sorted(answers, key=len, reverse=True) if answer.strip()]
    return re.compile(rf"(?<!\w)(?:{'|'.join(found)})(?!\w)", re.IGNORECASE) if found else None


def _marked(text: str, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        return _text(text)
    pieces, cursor = [], 0
    for match in pattern.finditer(text):
        pieces += [_text(text[cursor : match.start()]), f'<span class="answer">{_text(match.group())}</span>']
        cursor = match.end()
    return "".join([*pieces, _text(text[cursor:])])


def _text(text: str) -> str:
    """Escaped; control characters and lone surrogates, which a page may not hold, replaced."""
    plain = "".join(c if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f") else "\ufffd" for c in text)
    return escape(plain.encode("utf-8", "replace").decode("utf-8"))
