"""Sequences of a query and a passage: the specials of the tokenizer's own pair form, long passages in windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctxcomp.encode.tokens import Tokens
from ctxcomp.encode.windows import windows
from ctxcomp.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ids = NDArray[np.int64]
MIN_WINDOW = 16
"""Positions below which query, specials and a few tokens of passage have no room."""


class PairSequence(NamedTuple):
    """One input of a cross-encoder.

    Parameters
    ----------
    ids: int64 ``[n]``, with specials.
    types: token types, int64 ``[n]``.
    start: position of the passage's first token.
    """

    ids: Ids
    types: Ids
    start: int


class Specials(NamedTuple):
    """Ids and token types of specials that stand together, int64 ``[n]`` each."""

    ids: Ids
    types: Ids


@dataclass(frozen=True)
class PairForm:
    """How a query and a passage become one sequence: ``before query between passage after``.

    Parameters
    ----------
    query_type, passage_type: token types of the two texts.
    """

    before: Specials
    between: Specials
    after: Specials
    query_type: int
    passage_type: int

    @property
    def size(self) -> int:
        """Number of specials."""
        return len(self.before.ids) + len(self.between.ids) + len(self.after.ids)

    def join(self, query: Ids, passage: Ids) -> PairSequence:
        """One sequence of query ids and passage ids; either may be empty."""
        start = len(self.before.ids) + len(query) + len(self.between.ids)
        ids = np.concatenate([self.before.ids, query, self.between.ids, passage, self.after.ids])
        query_types = np.full(len(query), self.query_type, np.int64)
        passage_types = np.full(len(passage), self.passage_type, np.int64)
        types = [self.before.types, query_types, self.between.types, passage_types, self.after.types]
        return PairSequence(ids, np.concatenate(types), start)


def read_pair_form(tokenizer: Tokenizer, source: str) -> PairForm:
    """The pair form that the tokenizer's post-processor gives.

    Raises
    ------
    ModelError: the tokenizer puts nothing between the two texts.
    """
    encoding = tokenizer.encode("a", "a")
    ids, types = (np.array(values, dtype=np.int64) for values in (encoding.ids, encoding.type_ids))
    owner = np.array([-1 if i is None else i for i in encoding.sequence_ids])
    query, passage = (np.flatnonzero(owner == i) for i in (0, 1))
    if not len(query) or not len(passage) or passage[0] - query[-1] < 2:
        raise ModelError(
            f"the tokenizer of {source} has no separator for pairs of texts: a reranker's puts one between"
        )
    first, last = slice(0, query[0]), slice(passage[-1] + 1, None)
    middle = slice(query[-1] + 1, passage[0])
    before, between, after = (Specials(ids[part], types[part]) for part in (first, middle, last))
    return PairForm(before, between, after, int(types[query[0]]), int(types[passage[0]]))


def cut_pair(
    form: PairForm, query: Tokens, passage: Tokens, *, window: int, max_query: int, overlap: int
) -> tuple[list[PairSequence], list[tuple[int, int]]]:
    """The sequences of one pair, and the range of passage tokens that each holds.

    Parameters
    ----------
    window: positions of a sequence with its specials, at least ``MIN_WINDOW``.
    max_query: tokens of the query that stay, from its start; at most a quarter of the window do.
    overlap: passage tokens that neighbouring windows share, at least; cut to half of what a window holds.
    """
    ids = query.ids[: min(max_query, window // 4)]
    size = window - form.size - len(ids)
    spans = windows(len(passage), size, min(overlap, size // 2))
    return [form.join(ids, passage.ids[a:b]) for a, b in spans], spans


def distinct(pairs: Sequence[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[int]]:
    """The different pairs in order of appearance, and for each given pair its place among them."""
    place: dict[tuple[str, str], int] = {}
    index = [place.setdefault((query, passage), len(place)) for query, passage in pairs]
    return list(place), index
