"""What the end of the prompt looks at stays."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from ctxcomp.errors import InputError
from ctxcomp.generate.cache.evictor import Evictor, LayerView


@dataclass(frozen=True, kw_only=True)
class SnapKV(Evictor):
    """Scores a token by the attention that the last queries give it, smoothed along the text.

    Parameters
    ----------
    window: how many of the last queries are asked; best no more than the question that ends the prompt.
    kernel: width of the smoothing over neighbouring slots, odd; 1 smooths nothing.

    Source: SnapKV (Li et al., 2024). Deviation: the window of queries need not be the tokens that always stay, which
    ``recent`` says.
    """

    window: int = 16
    kernel: int = 15

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1 or self.kernel < 1 or self.kernel % 2 == 0:
            raise InputError(
                f"SnapKV: window must be 1 or more, kernel odd and 1 or more, got {self.window=}, {self.kernel=}"
            )

    def score(self, view: LayerView) -> Tensor:
        """Mean attention of the window per key-value head, ``[B, H, n]``."""
        asked = view.queries.shape[2]
        rows = torch.arange(max(0, asked - self.window), asked, device=view.keys.device)
        seen = view.per_head(view.attention(rows)).mean(2)
        return avg_pool1d(seen, self.kernel, stride=1, padding=self.kernel // 2)
