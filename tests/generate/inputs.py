"""Layer inputs as transformers have them: correlated channels, a few of them large."""

import torch
from torch import Tensor

from ctxcomp.generate.weights.statistics import LayerStatistics


def correlated(tokens: int, columns: int, seed: int = 0) -> Tensor:
    """Inputs [tokens, columns] of a fast falling spectrum, mixed, with channels of very different size."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=torch.Generator().manual_seed(77))
    spectrum = torch.arange(1, columns + 1) ** -0.7
    sizes = torch.linspace(-1.5, 1.5, columns).exp()[
        torch.randperm(columns, generator=torch.Generator().manual_seed(78))
    ]
    return (torch.randn(tokens, columns, generator=generator) * spectrum) @ mixing * sizes


def layer(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, LayerStatistics, LayerStatistics]:
    """A weight [rows, columns] with heavy tails, its calibration inputs and other inputs of the same kind."""
    generator = torch.Generator().manual_seed(seed + 1)
    weight = torch.randn(rows, columns, generator=generator) * 0.05
    weight *= 1 + 5 * (torch.rand(rows, columns, generator=generator) > 0.995)
    return (
        weight,
        LayerStatistics.of(correlated(2000, columns, seed)),
        LayerStatistics.of(correlated(1000, columns, 99)),
    )


def relative_error(weight: Tensor, approximation: Tensor, statistics: LayerStatistics) -> float:
    """Squared error of the layer's outputs, as a share of the outputs' own square."""
    hessian = statistics.hessian.double()

    def square(matrix: Tensor) -> float:
        return float(((matrix.double() @ hessian) * matrix.double()).sum())

    return square(approximation - weight) / square(weight)
