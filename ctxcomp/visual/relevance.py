"""The retriever's own patch vectors (ColPali, ColQwen2) as a map of what matters on a page."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.visual.layout import Page


def maxsim_score(query: Any, patches: Any) -> float:
    """The late-interaction score of a page: each query vector's best patch, added up.

    Parameters
    ----------
    query: vectors of the question's tokens, ``[q, d]``.
    patches: vectors of the page's patches, ``[p, d]``.
    """
    similar = _similarities(query, patches)
    return float(similar.amax(1).sum())


def maxsim_map(query: Any, patches: Any, grid: tuple[int, int], *, reduce: Literal["max", "mean"] = "max") -> Tensor:
    """How much each patch matters to the question, float32 ``[rows, columns]``.

    From each query vector's similarities their mean over the page is taken off: a word that is alike everywhere says
    nothing about a place.

    Parameters
    ----------
    query: vectors of the question's tokens, ``[q, d]``.
    patches: vectors of the page's patches in reading order, ``[rows * columns, d]``.
    grid: rows and columns of the patches.
    reduce: over the query vectors.
    """
    similar = _similarities(query, patches)
    rows, columns = grid
    if rows * columns != similar.shape[1]:
        raise InputError(f"a grid of {rows} x {columns} has {rows * columns} patches, the page has {similar.shape[1]}")
    similar = similar - similar.mean(1, keepdim=True)
    best = similar.amax(0) if reduce == "max" else similar.mean(0)
    return best.view(rows, columns)


def _similarities(query: Any, patches: Any) -> Tensor:
    query, patches = torch.as_tensor(query).float().cpu(), torch.as_tensor(patches).float().cpu()
    if query.dim() != 2 or patches.dim() != 2 or query.shape[1] != patches.shape[1] or not len(query):
        raise InputError(
            f"query vectors [q, d] and patch vectors [p, d] are needed, got {list(query.shape)} and "
            f"{list(patches.shape)}"
        )
    similar: Tensor = query @ patches.T
    return similar


def map_at(relevance: Any, page: Page, number: int = 0) -> Tensor:
    """A map of a page at each of its tokens, float32 ``[n]``: bilinear, at the middle of a token's box.

    Parameters
    ----------
    relevance: ``[h, w]`` over the whole page, of any size.
    number: of the page, for messages.

    Raises
    ------
    InputError: it is no map of finite numbers, or the page's layout is not known.
    """
    try:
        values = torch.as_tensor(relevance).float().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the map of page {number} must be [h, w] of finite numbers: {error}") from error
    if values.dim() != 2 or not values.numel() or not torch.isfinite(values).all():
        raise InputError(f"the map of page {number} must be [h, w] of finite numbers, got {list(values.shape)}")
    boxes = page.boxes
    if torch.isnan(boxes[page.content]).any():
        raise InputError(f"where the tiles of page {number} lie is not known: give tiles= with the map")
    middle = torch.stack([boxes[:, 1] + boxes[:, 3], boxes[:, 0] + boxes[:, 2]], dim=1) - 1  # x and y in [-1, 1]
    sampled = torch.nn.functional.grid_sample(
        values[None, None], middle.nan_to_num()[None, None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled[0, 0, 0].masked_fill(page.structural, 0.0)
