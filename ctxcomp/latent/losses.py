"""What the latent methods learn by: the loss of the frozen generator on a text, given vectors in its prompt.

With prompt ``x`` that holds vectors, text ``y`` and generator ``p``:

    stage 1, paraphrase:    - mean log p(y | x)
    stage 2, instruction:   - mean log p(y | x)  +  2.0 KL(p(. | full text) || p(. | x)), the mean over y's tokens

Source: xRAG, Cheng et al. 2024, section 3.3 and 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

KL_WEIGHT = 2.0


@dataclass(frozen=True)
class Batch:
    """Prompts and the texts behind them, padded on the right.

    Parameters
    ----------
    ids, mask: ``[n, tokens]``; what ``ids`` holds where a vector stands does not matter.
    slots: rows and columns of the vectors, int64 ``[2, vectors]``, row by row.
    targets: where the next token is one of the text's, bool ``[n, tokens - 1]``.
    """

    ids: Tensor
    mask: Tensor
    slots: Tensor
    targets: Tensor

    @classmethod
    def of(cls, prompts: Sequence[tuple[list[int], list[int]]], texts: Sequence[Sequence[int]]) -> Batch:
        """From prompts, each with the places of its vectors, and texts, all as token ids."""
        rows = [[*ids, *text] for (ids, _), text in zip(prompts, texts, strict=True)]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])[:, None]
        begins = torch.tensor([len(prompt) for prompt, _ in prompts])[:, None]
        place = torch.arange(longest)[None]
        slots = [(row, column) for row, (_, places) in enumerate(prompts) for column in places]
        return cls(
            ids,
            (place < lengths).long(),
            torch.tensor(slots, dtype=torch.long).reshape(-1, 2).T,
            ((place >= begins) & (place < lengths))[:, 1:],
        )


def target_logits(model: Any, batch: Batch, vectors: Tensor) -> Tensor:
    """The frozen generator's logits ``[targets, vocabulary]``, float32, where the next token is one of the text's.

    Parameters
    ----------
    vectors: what replaces the embeddings at ``batch.slots``, ``[vectors, hidden]``.
    """
    embeddings = model.get_input_embeddings()(batch.ids)
    if len(vectors):
        embeddings = embeddings.index_put(tuple(batch.slots), vectors.to(embeddings.dtype))
    logits: Tensor = model(inputs_embeds=embeddings, attention_mask=batch.mask, use_cache=False).logits
    return logits[:, :-1][batch.targets].float()


def nll(logits: Tensor, batch: Batch) -> Tensor:
    """Negative log-likelihood of each of the text's tokens in nats, ``[targets]``."""
    return cross_entropy(logits, batch.ids[:, 1:][batch.targets], reduction="none")


def distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``T^2 KL(teacher || student)`` of logits ``[tokens, vocabulary]``: the mean over tokens, in nats."""
    divergence = kl_div(
        log_softmax(student / temperature, -1), softmax(teacher / temperature, -1), reduction="batchmean"
    )
    return divergence * temperature**2
