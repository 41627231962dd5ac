"""LLaVA, LLaVA-NeXT and LLaVA-OneVision: crops of one size, packed into a grid with row ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.visual.adapters.base import Adapter, Tiles
from ctxcomp.visual.adapters.linear import linear_positions
from ctxcomp.visual.layout import Page, page_of_grid


class GridListAdapter(Adapter):
    """The layout is read off the model's own packing: it packs coordinates as it packs features."""

    kinds: ClassVar[frozenset[str]] = frozenset({"llava", "llava_next", "llava_onevision"})

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        vision = model.config.vision_config
        if not isinstance(vision.image_size, int) or vision.model_type == "pixtral":
            raise InputError(f"a {model.config.model_type} model with a {vision.model_type} tower is not supported")
        self.side = vision.image_size // vision.patch_size
        self.packs = hasattr(self.inner, "pack_image_features")

    @property
    def prefix(self) -> int:
        """CLIP towers have a CLS token."""
        return int(self.model.config.vision_config.model_type == "clip_vision_model")

    def positions(self, inputs: Mapping[str, Any]) -> Tensor:
        """One-dimensional."""
        return linear_positions(inputs)

    def pages(self, inputs: Mapping[str, Any], output: Any, tiles: Tiles | None) -> list[tuple[Page, Tensor]]:
        """Square pages of LLaVA, or packed ones."""
        if not self.packs:
            page = page_of_grid(self.side, self.side)
            patches = torch.arange(len(page))[:, None]
            return [(page, patches + i * len(page)) for i in range(len(output.pooler_output))]
        first, laid_out = 0, []
        for i, size in enumerate(inputs["image_sizes"]):
            crops = self._crops(inputs, i)
            packed = self._pack(size, crops)
            laid_out.append((packed, self._members(packed, first)))
            first += crops * self.side**2
        return laid_out

    def _crops(self, inputs: Mapping[str, Any], image: int) -> int:
        """How many crops the model makes of an image."""
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        counts = inputs.get("batch_num_images")
        if counts is not None and [int(n) for n in counts for _ in range(int(n))][image] > 1:
            return 1  # OneVision does not cut up images that share a prompt
        config = self.model.config
        size = inputs["image_sizes"][image]
        return int(image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size))

    def _pack(self, size: Tensor, crops: int) -> Page:
        """The packed page: crop, row, column and a row-end mark go through the model's packing as four channels."""
        side = self.side
        patch = torch.arange(side * side)
        channels = torch.stack(
            [
                torch.arange(crops).repeat_interleave(side * side),
                (patch // side).repeat(crops),
                (patch % side).repeat(crops),
                torch.zeros(crops * side * side),
            ],
            dim=-1,
        ).to(torch.float64)
        grid = self._shape(size) if crops > 1 else (1, 1)
        # Places in the whole grid of crops vary linearly, so that where OneVision interpolates they stay meaningful.
        whole = channels.clone()
        if crops > 1:
            number = channels[side * side :, 0] - 1
            whole[side * side :, 1] += torch.div(number, grid[1], rounding_mode="floor") * side
            whole[side * side :, 2] += (number % grid[1]) * side
        options: dict[str, Any] = {"image_newline": torch.tensor([-1.0, -1.0, -1.0, 1.0], dtype=torch.float64)}
        if self.model.config.model_type == "llava_next":
            options["vision_feature_select_strategy"] = "default"
        else:
            options["vision_aspect_ratio"] = self.model.config.vision_aspect_ratio
        packed = self.inner.pack_image_features([whole.view(crops, side * side, 4)], size[None].cpu(), **options)[0][0]
        return self._page(packed, grid, crops)

    def _shape(self, size: Tensor) -> tuple[int, int]:
        from transformers.models.llava_next import modeling_llava_next as llava_next

        config = self.model.config
        rows, columns = llava_next.get_anyres_image_grid_shape(  # type: ignore[no-untyped-call]
            size.tolist(), config.image_grid_pinpoints, config.vision_config.image_size
        )
        return int(rows), int(columns)

    def _page(self, packed: Tensor, grid: tuple[int, int], crops: int) -> Page:
        side, n = self.side, len(packed)
        structural = packed[:, 3] > 0
        base = torch.zeros(n, dtype=torch.bool)
        base[: side * side] = True
        row, column = packed[:, 1], packed[:, 2]
        # A token that is interpolated belongs to the crop that its centre lies in.
        tile_row = (row.round() // side).clamp(0, grid[0] - 1).long()
        tile_column = (column.round() // side).clamp(0, grid[1] - 1).long()
        crop = torch.where(base, 0, 1 + tile_row * grid[1] + tile_column)
        crop = torch.where(structural, torch.where(base.all() | (crops == 1), 0, 1), crop)
        rows = torch.where(base, row, row - tile_row * side).round().long()
        columns = torch.where(base, column, column - tile_column * side).round().long()
        lines = torch.where(base, -1, structural.long().cumsum(0) - structural.long())
        if crops == 1:
            lines = torch.zeros(n, dtype=torch.long) if bool(structural.any()) else torch.full((n,), -1)
        boxes = _boxes(row, column, base, structural, side)
        return Page(crop, rows, columns, boxes, lines, structural, 0 if crops > 1 else None, grid)

    def _members(self, page: Page, first: int) -> Tensor:
        patches = first + page.crops * self.side**2 + page.rows * self.side + page.columns
        return torch.where(page.structural, -1, patches)[:, None]


def _boxes(row: Tensor, column: Tensor, base: Tensor, structural: Tensor, side: int) -> Tensor:
    """Boxes on the page: the thumbnail shows it whole, the rest shares it as far as it was not padding."""
    boxes = torch.full((len(row), 4), float("nan"))
    for mine in (base & ~structural, ~base & ~structural):
        if not bool(mine.any()):
            continue
        y, x = row[mine], column[mine]
        y_step, x_step = _step(y), _step(x)
        top, left = y.min(), x.min()
        height, width = y.max() - top + y_step, x.max() - left + x_step
        corners = [(y - top) / height, (x - left) / width, (y - top + y_step) / height, (x - left + x_step) / width]
        boxes[mine] = torch.stack(corners, dim=1).float()
    return boxes


def _step(values: Tensor) -> Tensor:
    """The distance of neighbouring places."""
    places = torch.unique(values)
    return (places[-1] - places[0]) / (len(places) - 1) if len(places) > 1 else torch.ones((), dtype=values.dtype)
