"""A method of one's own: write `score`, and budgets, spans and layout come with it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctxcomp import Budget, Passage, Selector
from ctxcomp.candidates import Candidates


@dataclass(frozen=True, kw_only=True)
class Questions(Selector):
    """Keeps questions first, then short sentences."""

    def score(self, batch: Sequence[Candidates]) -> list[np.ndarray]:
        """Higher is kept."""
        return [np.array([t.endswith("?") + 1 / len(t) for t in units.texts]) for units in batch]


if __name__ == "__main__":
    text = "It rained all day. Who had left the gate open? Nobody said a word. Where were the sheep?"
    result = Questions(elision="[…]").compress("", [Passage(text)], Budget(tokens=18))
    print(result.text)
    print(result.stats)
