"""The trained parts: xRAG's projector, and the small model with memory slots. Nothing else learns anything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ProjectorNetwork(nn.Module):
    """``mlp{depth}x_gelu``: a retriever's vector becomes one input embedding of the generator.

    ``e = W_2 gelu(W_1 v + b_1) + b_2`` for depth 2; every further layer is another GELU and square matrix.

    Parameters
    ----------
    retriever_size: width of the retriever's vectors.
    hidden_size: width of the generator's input embeddings.
    depth: linear layers, >= 1.

    Source: xRAG, Cheng et al. 2024, section 3.2; the names of the weights are those of its checkpoints.
    """

    def __init__(self, retriever_size: int, hidden_size: int, depth: int = 2) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(retriever_size, hidden_size)]
        for _ in range(depth - 1):
            layers += [nn.GELU(), nn.Linear(hidden_size, hidden_size)]
        self.projector = nn.Sequential(*layers)

    @property
    def linear(self) -> list[nn.Linear]:
        """The linear layers in order."""
        return [layer for layer in self.projector if isinstance(layer, nn.Linear)]

    @property
    def retriever_size(self) -> int:
        """Width of the vectors that go in."""
        return self.linear[0].in_features

    @property
    def hidden_size(self) -> int:
        """Width of the embeddings that come out."""
        return self.linear[-1].out_features

    def reset(self, scale: float) -> None:
        """Random weights that give embeddings of root mean square ``scale`` for vectors of length 1.

        Deviation: torch's default gives a hundredth of that for such vectors, and training first had to undo it.
        """
        for i, layer in enumerate(self.linear):
            last = i == len(self.linear) - 1
            # A vector of length 1 has entries of 1/sqrt(dim); gelu of a standard normal has a mean square of .43.
            spread = 1.0 if i == 0 else (0.43 * layer.in_features) ** -0.5
            nn.init.normal_(layer.weight, std=spread * (scale if last else 1.0))
            nn.init.zeros_(layer.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """``[n, retriever_size]`` to ``[n, hidden_size]``."""
        projected: Tensor = self.projector(vectors)
        return projected


class SlotsNetwork(nn.Module):
    """A small language model reads a passage and ``k`` slots behind it; the slots' states become embeddings.

    Parameters
    ----------
    encoder: a causal language model without its head (``AutoModel``), trained along.
    slots: how many, >= 1.
    hidden_size: width of the generator's input embeddings.

    Source: the slots are those of ICAE (Ge et al. 2024), the small model in front of a larger one that of C3.
    Deviation: the whole small model is trained, where ICAE trains a low-rank adapter of the generator itself.
    """

    def __init__(self, encoder: Any, slots: int, hidden_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.config.hidden_size
        self.slots = nn.Parameter(torch.zeros(slots, width))
        self.project = nn.Linear(width, hidden_size)

    def reset(self, scale: float) -> None:
        """Random slots like the encoder's own embeddings, and a projection to root mean square ``scale``."""
        own = self.encoder.get_input_embeddings().weight.detach().float()
        nn.init.normal_(self.slots, std=float(own.square().mean().sqrt()))
        nn.init.normal_(self.project.weight, std=scale * self.project.in_features**-0.5)
        nn.init.zeros_(self.project.bias)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids and mask ``[n, tokens]``, padded on the left, to embeddings ``[n, k, hidden_size]``."""
        read = self.encoder.get_input_embeddings()(ids)
        slots = self.slots.to(read.dtype).expand(len(ids), -1, -1)
        seen = torch.cat([mask, mask.new_ones(len(ids), len(self.slots))], 1)
        positions = (seen.cumsum(1) - 1).clamp(min=0)
        states = self.encoder(
            inputs_embeds=torch.cat([read, slots], 1), attention_mask=seen, position_ids=positions, use_cache=False
        ).last_hidden_state
        latents: Tensor = self.project(states[:, -len(self.slots) :].to(self.project.weight.dtype))
        return latents
