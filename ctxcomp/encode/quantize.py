"""int8 dense layers for the ONNX graph: weights per output channel, activations per token.

ONNX Runtime's own dynamic quantisation takes one scale from the whole activation tensor, so a result would depend on
what else is in the batch. One scale per token costs a few elementwise passes more and keeps every row independent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ctxcomp.encode.graph import Graph

WEIGHT_LIMIT = 63
"""Weights use 7 bits: x86 without VNNI adds two u8 x s8 products in 16 bits, which 8 bits overflow."""


def int8_dense(graph: Graph, x: str, name: str, weight: NDArray[Any]) -> str:
    """``x @ weight.T`` with both sides in int8 and the result in float32.

    Parameters
    ----------
    x: name of the input ``[rows, n, in]``.
    name: key for the weights.
    weight: ``[out, in]``.
    """
    quantised, token_scale = _quantise_tokens(graph, x)
    scale = np.maximum(np.abs(weight).max(axis=1), 1e-12).astype(np.float32) / WEIGHT_LIMIT
    rounded = np.rint(weight / scale[:, None]).astype(np.int8)
    inputs = (
        quantised,
        graph.weight(f"{name}.int8", rounded.T),
        graph.weight("one.float", np.array(1, np.float32)),
        graph.weight(f"{name}.scale", scale),
        graph.weight("zero_point", np.array(128, np.uint8)),
    )
    return str(graph.add("Mul", graph.add("MatMulIntegerToFloat", *inputs, domain="com.microsoft"), token_scale))


def _quantise_tokens(graph: Graph, x: str) -> tuple[str, str]:
    """``x`` as uint8 around 128, and its scale per token ``[rows, n, 1]``."""
    largest = graph.add("ReduceMax", graph.add("Abs", x), axes=[-1], keepdims=1)
    floor = graph.weight("scale.floor", np.array(1e-12, np.float32))
    scale = graph.add(
        "Mul", graph.add("Max", largest, floor), graph.weight("scale.unit", np.array(1 / 127, np.float32))
    )
    shifted = graph.add(
        "Add",
        graph.add("Round", graph.add("Div", x, scale)),
        graph.weight("zero_point.float", np.array(128, np.float32)),
    )
    return graph.add("Cast", shifted, to=2), scale
