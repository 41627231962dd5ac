"""Drawing tokens: Gumbel noise is added to the scores, and the largest is taken.

The noise of a position depends on the seed and the position alone. So no global random state is touched, a row of a
batch draws what it would draw alone, and speculative decoding draws what plain decoding draws.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ctxcomp.generate.sampling import Sampling

SEEDS = 2**63


def processors(sampling: Sampling, prompt_length: int) -> LogitsProcessorList:
    """What turns scores into scores whose largest is the choice; nothing for temperature 0."""
    found = LogitsProcessorList()
    if sampling.temperature == 0:
        return found
    found.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        found.append(TopPLogitsWarper(float(sampling.top_p)))
    seed = random.SystemRandom().randrange(SEEDS) if sampling.seed is None else sampling.seed
    found.append(GumbelNoise(seed, prompt_length))
    return found


class GumbelNoise(LogitsProcessor):
    """Adds the noise of a position, so that the largest score is a draw from the distribution.

    Parameters
    ----------
    seed: any whole number.
    prompt_length: tokens before the first one that is drawn.
    """

    def __init__(self, seed: int, prompt_length: int) -> None:
        self._seed, self._prompt_length = seed, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """``input_ids`` ``[rows, n]``, ``scores`` ``[rows, vocabulary]``; every row gets the same noise."""
        position = input_ids.shape[1] - self._prompt_length
        generator = torch.Generator(device=scores.device)
        generator.manual_seed(random.Random(f"{self._seed} {position}").randrange(SEEDS))
        waiting = torch.empty(scores.shape[-1], device=scores.device, dtype=torch.float32)
        return scores.float() - waiting.exponential_(generator=generator).log()
