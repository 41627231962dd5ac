"""`bm25`: keep the units that share the query's rare words."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctxcomp.candidates import Candidates
from ctxcomp.compressor import Scores, Selector
from ctxcomp.errors import InputError

# Runs of letters and digits; scripts written without spaces are matched character by character.
_WORD = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W_]+")

# Words that carry no topic: in a query of ten words they would otherwise win against the one rare word
# whenever a request has few units to estimate document frequencies from.
STOP_WORDS = frozenset(
    "a an and are as at be been but by can did do does for from had has have he her his how i if in into is it its "
    "me my not of on or our she so that the their them there they this to was we were what when where which who "
    "whom whose why will with would you your".split()
)


@dataclass(frozen=True, kw_only=True)
class Bm25(Selector):
    """Keeps lexical matches of the query, by Okapi BM25 over the request's own units (the library bm25s).

    Without a query, or when no word of it occurs, earlier units win.

    Parameters
    ----------
    k1: how soon repeated words stop to count, >= 0.
    b: how much long units are held back, in [0, 1].
    passage_weight: how much the BM25 score of the unit's whole passage adds to its own, >= 0.

    Source
    ------
    Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), in Lucene's variant.
    The passage term is ours: a unit seldom repeats the topic that its passage states once.
    """

    k1: float = 1.5
    b: float = 0.75
    passage_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k1 < 0 or not 0 <= self.b <= 1 or self.passage_weight < 0:
            raise InputError(
                f"bm25 takes k1 >= 0, b in [0, 1] and passage_weight >= 0, got k1={self.k1}, b={self.b}, "
                f"passage_weight={self.passage_weight}"
            )

    def score(self, batch: Sequence[Candidates]) -> list[Scores]:
        """BM25 of each unit plus ``passage_weight`` times that of its passage."""
        return [self._score(units) for units in batch]

    def _score(self, units: Candidates) -> Scores:
        query = [word for word in words(units.query) if word not in STOP_WORDS] or words(units.query)
        scores = self._bm25(units.texts, query)
        if self.passage_weight and self.unit != "passage":
            texts = [p.text for p in units.passages]
            scores = scores + self.passage_weight * self._bm25(texts, query)[units.passage]
        return scores

    def _bm25(self, texts: Sequence[str], query: Sequence[str]) -> Scores:
        import bm25s

        # The library sets its logger to DEBUG, and would write a line an index into any application's log.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        corpus = [words(text) for text in texts]
        wanted = [word for word in query if any(word in unit for unit in corpus)] if query else []
        if not wanted:
            return np.zeros(len(texts))
        index = bm25s.BM25(k1=self.k1, b=self.b, method="lucene")
        index.index(corpus, show_progress=False)
        return np.asarray(index.get_scores(wanted), dtype=np.float64)


def words(text: str) -> list[str]:
    """Lower-cased words, a plural or possessive "s" removed."""
    found = _WORD.findall(text.lower())
    return [word[:-1] if len(word) > 3 and word[-1] == "s" and word[-2] != "s" else word for word in found]
