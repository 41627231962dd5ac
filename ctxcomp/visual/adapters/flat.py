"""InternVL, Idefics3, SmolVLM, Gemma 3 and Mistral 3: tiles of one size, or one grid, in a flat list of features."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.visual.adapters.base import Adapter, Tiles
from ctxcomp.visual.adapters.linear import linear_positions
from ctxcomp.visual.layout import Page, page_of_crops, page_of_grid, page_of_tiles
from ctxcomp.visual.signals import block_members

TENSOR = frozenset({"internvl", "gemma3"})
"""These take their features as one tensor, the others as a list."""


class FlatAdapter(Adapter):
    """Tiles follow each other; ``tiles`` says which of them make a page, else each run of image tokens is one."""

    kinds: ClassVar[frozenset[str]] = frozenset({"internvl", "idefics3", "smolvlm", "gemma3", "mistral3"})

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.kind = model.config.model_type

    @property
    def factor(self) -> int:
        """Patches on each side of a token."""
        config = self.model.config
        if self.kind == "internvl":
            return round(1 / float(config.downsample_ratio))
        if self.kind in ("idefics3", "smolvlm"):
            return int(config.scale_factor)
        if self.kind == "mistral3":
            return int(config.spatial_merge_size)
        vision = config.vision_config
        return int(vision.image_size // vision.patch_size // round(config.mm_tokens_per_image**0.5))

    @property
    def prefix(self) -> int:
        """InternVL's tower has a CLS token."""
        return int(self.kind == "internvl")

    def positions(self, inputs: Mapping[str, Any]) -> Tensor:
        """One-dimensional."""
        return linear_positions(inputs)

    def lengths(self, inputs: Mapping[str, Any]) -> list[int] | None:
        """Mistral 3's tower takes all images as one sequence."""
        if self.kind != "mistral3":
            return None
        return [rows * columns * self.factor**2 for rows, columns in self._shapes(inputs)]

    def _shapes(self, inputs: Mapping[str, Any]) -> list[tuple[int, int]]:
        step = self.model.config.vision_config.patch_size * self.factor
        return [(int(h) // step, int(w) // step) for h, w in inputs["image_sizes"]]

    def pages(self, inputs: Mapping[str, Any], output: Any, tiles: Tiles | None) -> list[tuple[Page, Tensor]]:
        """Pages of tiles, or of one grid for Mistral 3."""
        first = 0
        pages = (
            [page_of_grid(*shape) for shape in self._shapes(inputs)]
            if self.kind == "mistral3"
            else self._tiled(inputs, len(self.flat(output.pooler_output)), tiles)
        )
        laid_out = []
        for page in pages:
            rows, columns = int(page.rows.max()) + 1, int(page.columns.max()) + 1
            block = block_members(rows, columns, self.factor)
            crops = len(page) // len(block)
            patches = torch.cat([block + i * block.numel() for i in range(crops)])
            laid_out.append((page, patches + first))
            first += patches.numel()
        return laid_out

    def _tiled(self, inputs: Mapping[str, Any], tokens: int, tiles: Tiles | None) -> list[Page]:
        side = self._side()
        if tiles is None:
            tiles = _processor_tiles(inputs)
        if tiles is None:
            return [page_of_crops(n // side**2, side) for n in self._runs(inputs["input_ids"], side**2)]
        for one in tiles:
            if len(one) != 2 or any(not isinstance(n, int) or n < 1 for n in one):
                raise InputError(f"tiles are (rows, columns) of whole numbers from 1, got {one!r}")
        where = "first" if self.kind == "gemma3" else "last"
        return [page_of_tiles(rows, columns, side, thumbnail=where) for rows, columns in tiles]

    def _side(self) -> int:
        """Tokens on each side of a tile."""
        vision = self.model.config.vision_config
        size, patch = (
            one[0] if isinstance(one, (list, tuple)) else one for one in (vision.image_size, vision.patch_size)
        )
        return int(size // patch // self.factor)

    def _runs(self, ids: Tensor, tile: int) -> list[int]:
        """Lengths of the runs of image tokens."""
        lengths: list[int] = []
        for row in (ids == self.image_token).long():
            edges = torch.diff(row, prepend=row.new_zeros(1), append=row.new_zeros(1))
            starts, ends = (torch.nonzero(edges == sign).flatten() for sign in (1, -1))
            lengths += (ends - starts).tolist()
        if any(n % tile for n in lengths):
            raise InputError(f"image tokens come in tiles of {tile}, but the prompt has runs of {lengths}")
        return lengths

    def wrap(self, output: Any, features: Tensor, deeper: Sequence[Tensor]) -> dict[str, Any]:
        """See ``Adapter.wrap``."""
        if self.kind not in TENSOR:
            return super().wrap(output, features, deeper)
        fresh = copy.copy(output)
        # Gemma 3 and InternVL report the number of features as a product of the first two sizes.
        fresh.pooler_output = features[None]
        return {"image": fresh}


def _processor_tiles(inputs: Mapping[str, Any]) -> list[tuple[int, int]] | None:
    """What the image processors of Idefics3 and SmolVLM say with ``return_row_col_info=True``."""
    if inputs.get("rows") is None or inputs.get("cols") is None:
        return None
    rows, columns = ([int(n) for sample in inputs[key] for n in sample] for key in ("rows", "cols"))
    return [(max(r, 1), max(c, 1)) for r, c in zip(rows, columns, strict=True)]
