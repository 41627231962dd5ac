"""Where the visual tokens of a page lie: crop, place within the crop, box on the page, row ends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Page:
    """The visual tokens of one page in the order of the prompt; all tensors are on the CPU.

    Parameters
    ----------
    crops: int64 ``[n]``, the crop that a token is from, counted from 0.
    rows, columns: int64 ``[n]``, its place within the crop's grid of tokens.
    boxes: float32 ``[n, 4]``, top, left, bottom, right as shares of the page in [0, 1]; NaN where it is not known.
    lines: int64 ``[n]``, the line of tokens that a row end closes; -1 where no row end follows.
    structural: bool ``[n]``, row ends, which stand for no patch.
    thumbnail: the crop that shows the whole page, None where there is none.
    grid: rows and columns of the other crops.
    """

    crops: Tensor
    rows: Tensor
    columns: Tensor
    boxes: Tensor
    lines: Tensor
    structural: Tensor
    thumbnail: int | None = None
    grid: tuple[int, int] = (1, 1)

    def __len__(self) -> int:
        return len(self.crops)

    @cached_property
    def content(self) -> Tensor:
        """Tokens that stand for patches, int64 ``[m]``."""
        return torch.nonzero(~self.structural).flatten()

    @cached_property
    def ends(self) -> dict[int, int]:
        """The row end of each line that has one."""
        return {int(self.lines[i]): int(i) for i in torch.nonzero(self.structural).flatten()}

    def crop(self, number: int) -> Tensor:
        """The content tokens of a crop, int64 ``[m]``."""
        return torch.nonzero((self.crops == number) & ~self.structural).flatten()

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """The crops that have content."""
        return tuple(torch.unique(self.crops[self.content]).tolist())


def page_of_tiles(rows: int, columns: int, side: int, *, thumbnail: str = "last") -> Page:
    """A page of ``rows`` x ``columns`` tiles of ``side`` x ``side`` tokens, with a thumbnail if there are several.

    Parameters
    ----------
    thumbnail: "first" or "last", where it stands among the tiles.
    """
    boxes = [(r / rows, c / columns, (r + 1) / rows, (c + 1) / columns) for r in range(rows) for c in range(columns)]
    whole = (0.0, 0.0, 1.0, 1.0)
    number = None
    if len(boxes) > 1:
        number = 0 if thumbnail == "first" else len(boxes)
        boxes.insert(number, whole)
    grids = [grid_boxes(side, side, box) for box in boxes]
    return plain_page(grids, (side, side), number, (rows, columns))


def page_of_crops(crops: int, side: int) -> Page:
    """A page of crops whose arrangement is not known: boxes only for a single one."""
    unknown = (float("nan"),) * 4
    boxes = [(0.0, 0.0, 1.0, 1.0)] if crops == 1 else [unknown] * crops
    return plain_page([grid_boxes(side, side, box) for box in boxes], (side, side), None, (1, crops))


def page_of_grid(rows: int, columns: int) -> Page:
    """A page that is one grid of tokens."""
    return plain_page([grid_boxes(rows, columns)], (rows, columns), None, (1, 1))


def plain_page(grids: list[Tensor], shape: tuple[int, int], thumbnail: int | None, grid: tuple[int, int]) -> Page:
    """A page without row ends, of crops of one shape."""
    rows, columns = shape
    places = torch.arange(rows * columns)
    n = len(grids) * len(places)
    return Page(
        crops=torch.arange(len(grids)).repeat_interleave(len(places)),
        rows=(places // columns).repeat(len(grids)),
        columns=(places % columns).repeat(len(grids)),
        boxes=torch.cat(grids),
        lines=torch.full((n,), -1),
        structural=torch.zeros(n, dtype=torch.bool),
        thumbnail=thumbnail,
        grid=grid,
    )


def grid_boxes(rows: int, columns: int, within: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)) -> Tensor:
    """The boxes ``[rows * columns, 4]`` of a regular grid in reading order."""
    top, left, bottom, right = within
    ys = torch.linspace(top, bottom, rows + 1)
    xs = torch.linspace(left, right, columns + 1)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    y, x = y.flatten(), x.flatten()
    return torch.stack([ys[y], xs[x], ys[y + 1], xs[x + 1]], dim=1)
