"""How `sentence_pruner` makes one probability of its signals: linear models and their calibration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctxcomp.compressor import Scores
from ctxcomp.text.second_look import SECOND, SEVERAL, Seen, Vocabulary, several_signals
from ctxcomp.text.signals import CHEAP, CROSS, STORED, Matrix

FUSION = Path(__file__).parent.parent / "weights" / "sentence_fusion.json"

FusionName = Literal["stored", "read", "cheap", "full", "second", "several"]
SIGNALS: dict[FusionName, tuple[str, ...]] = {
    "stored": STORED,
    "read": (*STORED, *CROSS),
    "cheap": CHEAP,
    "full": (*CHEAP, *CROSS),
    "second": (*CHEAP, *CROSS, *SECOND),
    "several": SEVERAL,
}
"""What each linear model weighs; the last one says whether a request needs several passages."""

STANDING = ("logit", "margin", "place")
"""What makes a unit's probability: its log-odds, their distance to the request's best, and the logarithm of one more
than the number of passages with a better unit. On dev questions 93.7 % of distractor passages fall under the threshold
that keeps 97 % of the evidence by the distance alone, 85.6 % by the log-odds, 94.5 % by both, 95.7 % by all three."""


@cache
def stored() -> Any:
    """What the fusion's file holds."""
    return json.loads(FUSION.read_text(encoding="utf-8"))


def fused(name: FusionName, signals: Matrix, models: Mapping[str, Any] | None = None) -> Scores:
    """Log-odds that a unit is needed, float64 ``[units]``; of "several", that a request needs several passages.

    Parameters
    ----------
    models: what holds the linear models, None for the file's.
    """
    model = (models or stored())[name]
    weights = np.array([model["weights"][signal] for signal in SIGNALS[name]])
    return np.asarray(signals @ weights + model["bias"], dtype=np.float64)


def probabilities(logits: Scores, passage: NDArray[np.int64], calibration: Mapping[str, float]) -> Scores:
    """Log-odds of all units of a request to probabilities, by ``STANDING``; ``passage`` says whose each unit is."""
    weights = np.array([calibration[name] for name in STANDING])
    return sigmoid(standing(logits, passage) @ weights + calibration["bias"])


def standing(logits: Scores, passage: NDArray[np.int64]) -> Matrix:
    """Float64 ``[units, len(STANDING)]``."""
    best = np.full(int(passage.max(initial=-1)) + 1, -np.inf)
    np.maximum.at(best, passage, logits)
    place = np.empty(len(best))
    place[np.argsort(-best, kind="stable")] = np.arange(len(best))
    return np.stack([logits, logits - logits.max(initial=-np.inf), np.log1p(place)[passage]], axis=1)


def several_share(seen: Seen, words: Vocabulary) -> float:
    """How likely a question needs several passages, in [0, 1]."""
    return float(sigmoid(fused("several", several_signals(seen, words))))


def sigmoid(logits: NDArray[Any]) -> Scores:
    """Log-odds to probabilities in (0, 1)."""
    return 1 / (1 + np.exp(-np.clip(np.asarray(logits, dtype=np.float64), -500, 500)))
