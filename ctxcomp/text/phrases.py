"""What should be kept or dropped together: names and numbers whole, negations with what they negate.

A word classifier scores words one by one, but an answer of several words survives only whole, and a text that has
lost a "not" says the opposite. Measured with `token_pruner`'s head on 1,072 dev questions, their contexts compressed
without the question: share of answers that survive at keep .25 / .35 / .5:

======================================================  =====  =====  =====
scores as they are                                       .572   .671   .807
articles last                                            .576   .689   .823
and names and numbers whole, at their best word          .609   .708   .824
and small words with the lesser of their neighbours      .615   .715   .831
and other runs of content words, partly: what this does   .618   .719   .832
======================================================  =====  =====  =====
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ctxcomp.candidates import Candidates
from ctxcomp.compressor import Scores

ARTICLES = frozenset(["a", "an", "the"])
NEGATIONS = frozenset("no not never none neither nor without cannot nobody nothing nowhere hardly barely".split())
NEGATED_WORDS = 3
"""How many words after a negation it is kept with."""
_LINKS = frozenset("of the and de von van la le al for &".split())
"""What may stand inside a name: "Duchess of York"."""
_SMALL = frozenset(
    "a an the this that these those it its he she they him his her their we you i and or but nor so yet if then than "
    "as of in on at by for with from to into over under about after before between through during is are was were be "
    "been being am has have had having do does did will would shall should can could may might must which who whom "
    "whose what where when why how there here also such other some any each more most very just no not".split()
)
_RUN_SHARE, _LINK_SHARE = 0.3, 0.6
_LEAST = 1e-5
_CLOSING = tuple(".,;:!?)]}”")
_ENDS = (".", "!", "?", ":")

NAME, SMALL, ARTICLE, NEGATION, CLOSES, ENDS = 1, 2, 4, 8, 16, 32


def whole_phrases(units: Candidates, scores: Scores) -> Scores:
    """Probabilities in [0, 1] that rank the words of phrases alike, from those of single words ``[n]``.

    English function words; names are found by their capitals, in any script that has them.
    """
    p = np.clip(scores, _LEAST, 1 - _LEAST)
    logits = np.log(p / (1 - p))
    for passage in range(len(units.passages)):
        mine = units.units_of(passage)
        logits[mine] = _phrases(units.texts[mine], units.gap[mine], logits[mine])
    return np.asarray(1 / (1 + np.exp(-logits)))


def _phrases(texts: Sequence[str], gap: NDArray[np.int8], logits: Scores) -> Scores:
    flags = np.array([_flags(text) for text in texts], np.int64)
    if not len(flags):
        return logits
    begins = np.concatenate([[True], ((flags[:-1] & ENDS) > 0) | (gap[1:] >= 2)])
    capital = (flags & NAME) > 0
    number = np.array([any(map(str.isdigit, text)) for text in texts])
    # A capital at the start of a sentence says something only before another one.
    followed = np.concatenate([capital[1:] & ~begins[1:], [False]]) & ((flags & CLOSES) == 0)
    name = number | (capital & (~begins | followed))
    small = (flags & SMALL) > 0
    z = logits.copy()
    for a, b in _runs(name, texts, begins, flags):
        z[a:b] = z[a:b][name[a:b]].max()
    for a, b in _runs(~small, (), begins, flags):
        z[a:b] += _RUN_SHARE * (z[a:b].max() - z[a:b])
    article = (flags & ARTICLE) > 0
    for i in np.flatnonzero(small & ~article).tolist():
        after = next((j for j in range(i + 1, len(z)) if not article[j]), None)
        if i > 0 and after is not None:
            z[i] += _LINK_SHARE * (min(z[i - 1], z[after]) - z[i])
    z[article] = np.log(_LEAST)
    for i in np.flatnonzero(flags & NEGATION).tolist():
        z[i] = max(z[i], z[i + 1 : i + 1 + NEGATED_WORDS].max(initial=-np.inf))
    return z


def _runs(
    member: NDArray[np.bool_], texts: Sequence[str], begins: NDArray[np.bool_], flags: NDArray[np.int64]
) -> Iterator[tuple[int, int]]:
    """Maximal runs of members of one sentence that no punctuation closes; with ``texts`` up to two links may lie in."""
    i, n = 0, len(member)
    while i < n:
        if not member[i]:
            i += 1
            continue
        end = i + 1
        while end < n and not flags[end - 1] & CLOSES and not begins[end]:
            link = end
            while texts and link < min(n, end + 2) and texts[link] in _LINKS:
                link += 1
            if link >= n or not member[link]:
                break
            end = link + 1
        yield i, end
        i = end


@lru_cache(maxsize=65536)
def _flags(text: str) -> int:
    word = text.strip("\"'“”‘’«»()[]{}.,;:!?…-–—*_")
    lower = word.lower().replace("’", "'")
    small = lower in _SMALL
    return (
        NAME * (word[:1].isupper() and not small)
        | SMALL * small
        | ARTICLE * (lower in ARTICLES)
        | NEGATION * (lower in NEGATIONS or lower.endswith("n't"))
        | CLOSES * text.endswith(_CLOSING)
        | ENDS * text.rstrip("\"'”’)»").endswith(_ENDS)
    )
