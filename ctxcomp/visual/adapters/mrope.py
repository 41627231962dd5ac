"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL: grids of any shape, three-dimensional positions, DeepStack."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.visual.adapters.base import Adapter, Tiles
from ctxcomp.visual.layout import Page, page_of_grid


class MRopeAdapter(Adapter):
    """Every image is one grid; positions are those of the whole prompt, taken before anything is dropped."""

    kinds: ClassVar[frozenset[str]] = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"})

    def check(self, inputs: Mapping[str, Any]) -> None:
        """See ``Adapter.check``; grids and token types are needed too."""
        super().check(inputs)
        for name in ("image_grid_thw", "mm_token_type_ids"):
            if inputs.get(name) is None:
                raise InputError(f"the inputs of a {self.model.config.model_type} model need {name!r}")

    def positions(self, inputs: Mapping[str, Any]) -> Tensor:
        """Time, height and width, ``[3, B, L]``."""
        found: Tensor = self.inner.get_rope_index(
            inputs["input_ids"],
            mm_token_type_ids=inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
            attention_mask=inputs["attention_mask"],
        )[0]
        return found

    @property
    def merge(self) -> int:
        """Patches on each side of a token."""
        return int(self.model.config.vision_config.spatial_merge_size)

    def pages(self, inputs: Mapping[str, Any], output: Any, tiles: Tiles | None) -> list[tuple[Page, Tensor]]:
        """One page an image; the tower's patches come token by token already, in windows for Qwen2.5-VL."""
        grids = inputs["image_grid_thw"].cpu()
        if bool((grids[:, 0] != 1).any()):
            raise InputError("an image with more than one frame is a video: give the frames as images")
        unit = self.merge**2
        order = self._order(grids)
        members = torch.empty(len(order), unit, dtype=torch.long)
        members[order] = torch.arange(len(order) * unit).view(-1, unit)
        pages = [page_of_grid(int(h) // self.merge, int(w) // self.merge) for _, h, w in grids]
        return list(zip(pages, torch.split(members, [len(page) for page in pages]), strict=True))

    def _order(self, grids: Tensor) -> Tensor:
        """The token that stands at each place of the tower's sequence."""
        vision = self.model.config.vision_config
        if not getattr(vision, "window_size", None):
            return torch.arange(int(grids.prod(-1).sum()) // self.merge**2)
        from transformers.vision_utils import get_vision_window_index

        order: Tensor = get_vision_window_index(grids, self.merge, vision.window_size, vision.patch_size)[0]
        return order

    def layer(self, number: int) -> int:
        """A layer that sees the whole image: the nearest one at or before that number, else the first."""
        number = super().layer(number)
        whole = getattr(self.model.config.vision_config, "fullatt_block_indexes", None)
        if not whole:
            return number
        before = [int(one) for one in whole if one <= number]
        return max(before) if before else int(min(whole))

    def deeper(self, output: Any) -> tuple[Tensor, ...]:
        """DeepStack features of Qwen3-VL."""
        return tuple(torch.cat(list(one)) for one in getattr(output, "deepstack_features", None) or ())

    def empty_output(self) -> Any:
        """See ``Adapter.empty_output``; models with DeepStack have a class of their own."""
        own = getattr(sys.modules[type(self.inner).__module__], "BaseModelOutputWithDeepstackFeatures", None)
        return super().empty_output() if own is None else own()

    def wrap(self, output: Any, features: Tensor, deeper: Sequence[Tensor]) -> dict[str, Any]:
        """See ``Adapter.wrap``; the output's own class carries DeepStack features."""
        fresh = copy.copy(output)
        fresh.pooler_output = [features]
        if deeper:
            fresh.deepstack_features = [[one] for one in deeper]
        return {"image": fresh}
