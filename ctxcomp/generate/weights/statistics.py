"""What calibration tells of the inputs of one linear layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SAMPLE_TOKENS = 512
"""Inputs kept as they are, spread evenly over the calibration tokens: AutoAWQ's number."""


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Inputs of a linear layer with K columns over the calibration tokens, in float32.

    Parameters
    ----------
    tokens: how many inputs there were; 0 where there was no calibration, and then the rest is zeros.
    mean_abs, max_abs: [K], mean and maximum of the magnitude.
    sample: [m, K], m up to 512 inputs.
    hessian: [K, K], ``2 / tokens * X^T X``; zeros unless the method needs it.
    layer: name of the layer in its block, "" if it has none.
    """

    tokens: int
    mean_abs: Tensor
    max_abs: Tensor
    sample: Tensor
    hessian: Tensor
    layer: str = ""

    @classmethod
    def empty(cls, columns: int, device: torch.device | str = "cpu", layer: str = "") -> LayerStatistics:
        """Of a layer without inputs."""
        zeros = torch.zeros(columns, device=device)
        return cls(0, zeros, zeros, zeros.new_zeros(0, columns), zeros.new_zeros(()).expand(columns, columns), layer)

    @classmethod
    def of(cls, inputs: Tensor) -> LayerStatistics:
        """Of these inputs, [tokens, K]."""
        collector = Collector(hessian=True, stride=max(1, len(inputs) // SAMPLE_TOKENS))
        collector.add(inputs)
        return collector.statistics()


class Collector:
    """Adds up the inputs of one layer.

    Parameters
    ----------
    hessian: add up ``X^T X`` too.
    stride: every how many tokens one goes into the sample.
    """

    def __init__(self, *, hessian: bool, stride: int) -> None:
        self.hessian = hessian
        self.stride = stride
        self.tokens = 0
        self.total: Tensor | None = None
        self.highest: Tensor | None = None
        self.products: Tensor | None = None
        self.rows: list[Tensor] = []

    def add(self, inputs: Tensor) -> None:
        """Inputs [..., K] of any floating type."""
        x = inputs.detach().flatten(0, -2).float()
        magnitude = x.abs()
        total, highest = magnitude.sum(0), magnitude.amax(0)
        self.total = total if self.total is None else self.total + total
        self.highest = highest if self.highest is None else torch.maximum(self.highest, highest)
        if self.hessian:
            products = x.T @ x
            self.products = products if self.products is None else self.products.add_(products)
        self.rows.append(x[-self.tokens % self.stride :: self.stride].clone())
        self.tokens += len(x)

    def statistics(self) -> LayerStatistics:
        """What was seen so far.

        Raises
        ------
        RuntimeError: nothing was added.
        """
        if self.total is None or self.highest is None:
            raise RuntimeError("no input was added")
        none = LayerStatistics.empty(len(self.total), self.total.device).hessian
        return LayerStatistics(
            tokens=self.tokens,
            mean_abs=self.total / self.tokens,
            max_abs=self.highest,
            sample=torch.cat(self.rows)[:SAMPLE_TOKENS],
            hessian=none if self.products is None else self.products * (2 / self.tokens),
        )
