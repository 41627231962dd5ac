"""From token probabilities to kept words, with the arithmetic of llmlingua 0.2.2, in whole arrays.

The peer adds NumPy float32 scalars and Python floats in a loop. What that gives is reproduced here exactly: word means
are sequential float32 sums, a word whose pieces are all forced is a Python float, and one such word in a chunk makes
the chunk's percentile a float64 computation instead of a float32 one.
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxcomp.compat.llmlingua_tokenizer import PeerTokenizer
from ctxcomp.errors import InputError

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
_DIGIT = re.compile(r"\d")
_SHORT_WORD = 8


@dataclass(frozen=True)
class Words:
    """The words of one chunk.

    Parameters
    ----------
    texts: the words, XLM-R's with their leading ``▁``.
    values: what decides, float32 values held as float64 ``[n]``.
    plain: where the peer holds a Python float and not a float32, ``[n]``.
    model_values: what scores a context, before anything is forced: of the first piece, float32 ``[n]``.
    """

    texts: list[str]
    values: NDArray[np.float64]
    plain: NDArray[np.bool_]
    model_values: Floats


class WordRules:
    """How token ids become words under one set of forced tokens; facts about each id are worked out once.

    Parameters
    ----------
    tokenizer: gives the token strings.
    force_tokens: strings whose words are kept.
    token_map: forced string -> the added token that stands for it in the text.
    force_digits: keep pieces with a digit.
    first: a word's value is that of its first piece, not the mean.
    """

    def __init__(
        self,
        tokenizer: PeerTokenizer,
        force_tokens: Sequence[str],
        token_map: Mapping[str, str],
        *,
        force_digits: bool,
        first: bool,
    ) -> None:
        self._tokenizer = tokenizer
        self._forced = frozenset(force_tokens) | frozenset(token_map.values())
        self._map = token_map
        self._force_digits = force_digits
        self._first = first
        self._known: dict[int, tuple[bool, bool, bool, str]] = {}

    def words(self, ids: Ids, probabilities: Floats) -> Words:
        """The words of one chunk.

        Parameters
        ----------
        ids: int64 ``[n]``, with specials.
        probabilities: float32 ``[n]``.

        Raises
        ------
        InputError: the chunk starts in the middle of a word.
        """
        facts = [self._known.get(i) or self._learn(i) for i in ids.tolist()]
        kept = np.array([not special for special, _, _, _ in facts], dtype=bool)
        facts = [fact for fact in facts if not fact[0]]
        begins = np.array([begin for _, begin, _, _ in facts], dtype=bool)
        forced = np.array([force for _, _, force, _ in facts], dtype=bool)
        pieces = [text for _, _, _, text in facts]
        if len(begins) and not begins[0]:
            raise InputError(
                f"a chunk starts with {pieces[0]!r}, which continues a word; llmlingua 0.2.2 fails on it too: remove "
                "the special token in front of it from the text"
            )
        starts = np.flatnonzero(begins)
        ends = np.append(starts, len(pieces))[1:] if len(starts) else starts
        texts = [
            pieces[a] if b - a == 1 else "".join(pieces[a:b])
            for a, b in zip(starts.tolist(), ends.tolist(), strict=True)
        ]
        model = np.asarray(probabilities, dtype=np.float32)[kept]
        changed = np.where(forced, np.float32(1.0), model)
        if self._first:
            return Words(texts, changed[starts].astype(np.float64), forced[starts], model[starts])
        plain = np.logical_and.reduceat(forced, starts) if len(starts) else forced
        values = _means(changed, starts, ends).astype(np.float64)
        # The peer scores every piece of a word like its first one here, and still sums and divides.
        repeated = np.repeat(model[starts], ends - starts)
        return Words(texts, values, plain, _means(repeated, starts, ends))

    def _learn(self, index: int) -> tuple[bool, bool, bool, str]:
        """(is special, begins a word, is forced, its text in a word) of one id."""
        token = self._tokenizer.token(index)
        mark = "#" if self._tokenizer.kind == "wordpiece" else "▁"
        bare = token.lstrip(mark)
        if mark == "#":
            begins = bare in self._forced or not token.startswith("##")
        else:
            begins = token in string.punctuation or token in self._forced or token.startswith("▁")
        forced = begins and bare in self._forced
        text = self._original(token) if begins else bare
        if self._force_digits:
            forced = forced or bool(_DIGIT.search(text if begins else token))
        fact = (token in self._tokenizer.specials, begins, forced, text)
        self._known[index] = fact
        return fact

    def _original(self, token: str) -> str:
        for original, added in self._map.items():
            token = token.replace(added, original)
        return token


def _means(values: Floats, starts: Ids, ends: Ids) -> Floats:
    """Float32 means of ``values[start:end]``, each summed from left to right."""
    sums = values[starts]
    sizes = ends - starts
    for step in range(1, min(_SHORT_WORD, int(sizes.max(initial=0)))):
        rows = np.flatnonzero(sizes > step)
        sums[rows] += values[starts[rows] + step]
    for row in np.flatnonzero(sizes > _SHORT_WORD):
        # add.reduce would sum pairwise; accumulate goes one by one.
        sums[row] = np.add.accumulate(values[starts[row] : ends[row]])[-1]
    return np.asarray(sums / sizes.astype(np.float32), dtype=np.float32)


def left_to_right_mean(values: Floats) -> np.float32:
    """The float32 mean, summed one by one.

    Raises
    ------
    InputError: there are no values.
    """
    if not len(values):
        raise InputError(
            "use_context_level_filter: a context holds no word that the model knows, so it has no score; llmlingua "
            "0.2.2 fails on it too: drop empty contexts or pass use_context_level_filter=False"
        )
    return np.float32(np.add.accumulate(values)[-1] / np.float32(len(values)))


def percentile(values: NDArray[np.floating], percent: int, reason: str) -> float:
    """``np.percentile`` in the dtype of ``values``.

    Parameters
    ----------
    percent: in [0, 100].
    reason: what led to ``percent``, for the message.

    Raises
    ------
    InputError: ``percent`` is out of range, or there are no values.
    """
    if not 0 <= percent <= 100:
        raise InputError(
            f"{reason} asks for percentile {percent}: allowed is 0 to 100; llmlingua 0.2.2 fails on it too. Give a "
            "rate above 0 and at most 1, or a target_token above 0"
        )
    if not len(values):
        raise InputError(
            "a chunk holds no word that the model knows (only unknown characters or special tokens); llmlingua 0.2.2 "
            "fails on it too: remove such contexts, or pass rate=1.0"
        )
    return float(np.percentile(values, percent))


def keep_words(
    words: Words,
    reduce_rate: float,
    count: Callable[[Sequence[str]], list[int]],
    dropping: frozenset[str] | None,
) -> NDArray[np.bool_]:
    """Which words of a chunk stay, bool ``[n]``.

    Parameters
    ----------
    reduce_rate: share of the tokens to drop, > 0.
    count: tokens of each word.
    dropping: forced words that may not stand twice in a row; None to allow that.
    """
    values, plain = words.values, words.plain
    reason = f"rate={1 - reduce_rate:g}"
    if dropping is not None:
        threshold = percentile(_typed(values, plain), int(100 * reduce_rate), reason)
        values, plain = _without_repeats(words, threshold, dropping)
    counts = np.array(count(words.texts), dtype=np.int64)
    spread = _typed(np.repeat(values, counts), np.repeat(plain, counts))
    threshold = percentile(spread, int(100 * reduce_rate + 1), reason)
    kept: NDArray[np.bool_] = (values > threshold) | ((values == threshold) & (threshold == 1.0))
    if dropping is not None:
        rows = np.flatnonzero(kept).tolist()
        for before, row in itertools.pairwise(rows):
            if words.texts[row] in dropping and words.texts[row] == words.texts[before]:
                kept[row] = False
    return kept


def _typed(values: NDArray[np.float64], plain: NDArray[np.bool_]) -> NDArray[np.floating]:
    return values if plain.any() else values.astype(np.float32)


def _without_repeats(
    words: Words, threshold: float, dropping: frozenset[str]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values in which a forced word is 0 that repeats the one before with nothing above the threshold between."""
    values, plain = words.values.copy(), words.plain.copy()
    rows = [i for i, text in enumerate(words.texts) if text in dropping]
    strong = values > threshold
    strong[rows] = False
    above = np.concatenate([[0], np.cumsum(strong)])
    previous, seen = None, 0
    for row in rows:
        between = above[row] > seen
        if not between and words.texts[row] == previous:
            values[row], plain[row] = 0.0, True
        # The peer resets its flag only here, at the next forced word.
        previous, seen = words.texts[row], above[row]
    return values, plain
