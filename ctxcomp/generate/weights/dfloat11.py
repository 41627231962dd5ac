"""DFloat11: bfloat16 weights in about 11 bits without loss; a layer decodes its weight when it runs.

Source: Zhang et al. 2025, "70% Size, 100% Accuracy: Lossless LLM Compression for Efficient GPU Inference via
Dynamic-Length Float" (arXiv 2504.11651). Deviations: one Huffman code serves the whole model, and tied weights are held
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctxcomp.errors import InputError
from ctxcomp.progress import tracked
from ctxcomp_kernels.dfloat11 import Encoded, Table, code_table, decode, encode, histogram


@dataclass(frozen=True)
class LosslessReport:
    """What `compress_lossless` did.

    Parameters
    ----------
    layers: names of the layers that are compressed now.
    bytes_before, bytes_after: of all parameters and buffers of the model, shared ones once.
    """

    layers: tuple[str, ...]
    bytes_before: int
    bytes_after: int


class CodeTable(nn.Module):
    """The Huffman code of a model, shared by its weights."""

    lengths: Tensor
    lookup: Tensor

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.register_buffer("lengths", table.lengths)
        self.register_buffer("lookup", table.lookup)

    def table(self) -> Table:
        """As the codec takes it."""
        return Table(self.lengths, self.lookup)


class EncodedWeight(nn.Module):
    """A bfloat16 tensor, encoded; calling it decodes it, bit for bit."""

    sign_mantissa: Tensor
    stream: Tensor
    gaps: Tensor
    positions: Tensor

    def __init__(self, encoded: Encoded, code: CodeTable) -> None:
        super().__init__()
        self.shape = encoded.shape
        self.code = code
        for name in ("sign_mantissa", "stream", "gaps", "positions"):
            self.register_buffer(name, getattr(encoded, name))

    def encoded(self) -> Encoded:
        """As the codec takes it."""
        return Encoded(self.shape, self.sign_mantissa, self.stream, self.gaps, self.positions, self.code.table())

    def forward(self) -> Tensor:
        """The weight, bfloat16."""
        return decode(self.encoded())


class DFloat11Linear(nn.Module):
    """Takes the place of a linear layer with a bfloat16 weight [N, K]."""

    def __init__(self, encoded: EncodedWeight, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = encoded.shape
        self.encoded = encoded
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        """The weight [N, K], decoded anew each time."""
        dense: Tensor = self.encoded()
        return dense

    def forward(self, x: Tensor) -> Tensor:
        """``x @ W.T + bias``; x [..., K] bfloat16 to [..., N]."""
        return functional.linear(x, self.weight, self.bias)


class DFloat11Embedding(nn.Module):
    """Takes the place of an embedding with a bfloat16 weight [rows, dim]."""

    def __init__(self, encoded: EncodedWeight) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = encoded.shape
        self.encoded = encoded

    @property
    def weight(self) -> Tensor:
        """The weight [rows, dim], decoded anew each time."""
        dense: Tensor = self.encoded()
        return dense

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of ids [...], [..., dim]."""
        return functional.embedding(ids, self.weight)


@torch.no_grad()
def compress_lossless(model: nn.Module, skip: Sequence[str] = ()) -> LosslessReport:
    """Compress the linear layers and embeddings of a bfloat16 model, in place; what it computes stays bit-identical.

    Parameters
    ----------
    model: any module. Subclasses of linear layers and embeddings, norms and weights of other dtypes stay as they are.
    skip: names of layers to leave.

    Raises
    ------
    InputError: there is no layer to compress.
    """
    from ctxcomp.generate.weights.quantize import model_bytes

    names = tuple(name for name, module in model.named_modules() if _fits(module) and name not in skip)
    before = model_bytes(model)
    code = _code([model.get_submodule(name) for name in names])
    done: dict[int, EncodedWeight] = {}
    for name in tracked(names):
        layer: Any = model.get_submodule(name)
        encoded = done.get(id(layer.weight))
        if encoded is None:
            encoded = done[id(layer.weight)] = EncodedWeight(encode(layer.weight, code.table()), code)
        linear = isinstance(layer, nn.Linear)
        model.set_submodule(name, DFloat11Linear(encoded, layer.bias) if linear else DFloat11Embedding(encoded))
    return LosslessReport(names, before, model_bytes(model))


def _code(layers: Sequence[Any]) -> CodeTable:
    """One code for the weights of all layers, each weight counted once."""
    weights = {id(layer.weight): layer.weight for layer in layers}
    if not weights:
        raise InputError(
            "no linear layer or embedding holds bfloat16 weights: load the model with dtype=torch.bfloat16"
        )
    table = code_table(torch.stack([histogram(weight) for weight in weights.values()]).sum(0))
    device = layers[0].weight.device
    return CodeTable(Table(table.lengths.to(device), table.lookup.to(device)))


def _fits(module: nn.Module) -> bool:
    plain = type(module) is nn.Linear or (type(module) is nn.Embedding and module.max_norm is None)
    return plain and isinstance(module.weight, torch.Tensor) and module.weight.dtype == torch.bfloat16
