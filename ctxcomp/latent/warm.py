"""Where the projector starts: at a linear map onto the embeddings of each passage's telling words.

From random weights the first steps teach the token only what all passages share. The least-squares map costs seconds,
and from it the token tells passages apart from the first step on. Deviation from xRAG, which starts at random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import gelu

from ctxcomp.errors import InputError
from ctxcomp.latent.networks import ProjectorNetwork

LINEAR = 2.0
"""Where GELU is nearly the identity, one standard deviation to either side."""
RIDGE = 0.5
"""Added to the squared singular values of the retriever's vectors, which have length 1."""


def telling_words(rows: Sequence[Sequence[int]], embeddings: Tensor) -> Tensor:
    """Mean embedding of each text's distinct tokens, weighted by idf squared, without what all have in common.

    Parameters
    ----------
    rows: token ids of the texts.
    embeddings: the generator's, ``[vocabulary, hidden]``.

    Returns
    -------
    ``[texts, hidden]``.
    """
    count = torch.zeros(len(embeddings))
    for row in rows:
        count[list(set(row))] += 1
    weights = (math.log(len(rows)) - (count + 1).log()).clamp(min=0).square()
    weights[count < 2] = 0  # what one text alone has cannot be told from a vector
    found = torch.zeros(len(rows), embeddings.shape[1])
    for i, row in enumerate(rows):
        own = torch.tensor(sorted(set(row)), dtype=torch.long)
        share = weights[own] / weights[own].sum().clamp(min=1e-6)
        found[i] = share @ embeddings[own]
    return found - found.mean(0)


@torch.no_grad()
def warm_start(network: ProjectorNetwork, vectors: Tensor, targets: Tensor, scale: float) -> None:
    """Set a projector of two layers to the ridge regression of ``targets`` on ``vectors``.

    Parameters
    ----------
    vectors: of the retriever, ``[texts, retriever_size]``.
    targets: ``[texts, hidden]``.
    scale: root mean square of what comes out.

    Raises
    ------
    InputError: the projector has not two layers.
    """
    if len(network.linear) != 2:
        raise InputError(f"a warm start is for projectors of 2 layers, this one has {len(network.linear)}")
    first, second = network.linear
    centre = vectors.mean(0)
    around = vectors - centre
    gram = around.T @ around + RIDGE * torch.eye(vectors.shape[1])
    linear = torch.linalg.solve(gram, around.T @ targets)
    size = float((around @ linear).square().mean().sqrt())
    first.weight.copy_(linear.T / size)
    first.bias.copy_(LINEAR - first.weight @ centre)
    second.weight.copy_(torch.eye(len(second.weight)) * scale)
    second.bias.copy_(-scale * gelu(torch.full_like(second.bias, LINEAR)))
