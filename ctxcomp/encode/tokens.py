"""Text to token ids with character offsets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one text, without specials.

    Parameters
    ----------
    ids: int64 ``[n]``.
    offsets: int64 ``[n, 2]``, half-open character ranges of the text.
    """

    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Tokens]:
    """Tokenize texts, whole, without specials.

    A lone surrogate has no UTF-8 form: it is read as U+FFFD, also one character, so offsets stay right.
    """
    encodings = tokenizer.encode_batch([_SURROGATE.sub("\ufffd", text) for text in texts], add_special_tokens=False)
    return [
        Tokens(np.array(e.ids, dtype=np.int64), np.array(e.offsets, dtype=np.int64).reshape(-1, 2)) for e in encodings
    ]


def part_of_tokens(start: NDArray[np.int64], end: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each token the part, a word for example, that holds its last character: int64 ``[tokens]``, -1 for none.

    Parameters
    ----------
    start, end: int64 ``[parts]``, half-open character ranges in ascending order that do not overlap.
    """
    last = offsets[:, 1] - 1
    part = np.searchsorted(end, last, side="right")
    outside = part >= len(end)
    part[outside] = 0
    if len(start):
        outside |= last < start[part]
    part[outside | (offsets[:, 1] == offsets[:, 0])] = -1
    return part
