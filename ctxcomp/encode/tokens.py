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
