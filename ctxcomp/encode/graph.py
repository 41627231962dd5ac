"""BERT-family encoders as an ONNX graph, built straight from a checkpoint's tensors.

The family: word, position and token-type embeddings, then layers of self-attention and a GELU feed-forward block,
each followed by a residual LayerNorm (BERT, RoBERTa, XLM-RoBERTa, CamemBERT, and models saved as one of them).

Why not ``torch.onnx.export``: it is no faster and needs torch. MiniLM, 2 threads of an AMD EPYC with AVX-512, p50 in
seconds and the lowest cosine to torch in float32 (``ctxcomp_eval.bench.encoders``; the machine was not idle, and
differences under 15 % are within its noise):

===========================  ======  ======  ======  =========
variant                      20x130  120x25  10,000  cosine
===========================  ======  ======  ======  =========
torch SDPA float32            0.496   0.538   2.60   1
torch SDPA bfloat16           0.172   0.158   0.907  0.9999
export                        0.239   0.280   1.36   1
export, dynamo                0.279   0.272   1.41   1
export, BERT fusion           0.249   0.266   1.19   1
the same, dynamic int8        0.159   0.155   0.690  0.981
this graph, float32           0.220   0.250   1.36   1
this graph, int8 per token    0.197   0.217   0.969  0.992
===========================  ======  ======  ======  =========

Building takes 0.02 to 0.06 s and int8 about as long, so neither is kept on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxcomp.encode.heads import Head
from ctxcomp.encode.quantize import int8_dense
from ctxcomp.errors import ModelError
from ctxcomp.loading import Tensors, position_offset

Array = NDArray[Any]
CONTRIB = "com.microsoft"
FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert")


@dataclass
class Graph:
    """Nodes and weights under construction.

    Parameters
    ----------
    int8: run dense layers in int8 instead of float32.
    """

    int8: bool = False
    nodes: list[Any] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)

    def add(self, op: str, *inputs: str, domain: str = "", outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        """Append a node and return the name of its output, or a list of names."""
        from onnx import helper

        names = [name or f"{op}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def weight(self, name: str, array: Array) -> str:
        """Register an initializer and return its name."""
        self.weights[name] = np.ascontiguousarray(array)
        return name

    def dense(self, x: str, name: str, weight: Array) -> str:
        """The product of ``x`` with a dense weight ``[out, in]``, without bias."""
        if self.int8:
            return int8_dense(self, x, name, weight)
        return str(self.add("MatMul", x, self.weight(name, weight.T)))


def supported(config: Mapping[str, Any]) -> bool:
    """Whether ``build`` knows the architecture of this ``config.json``."""
    return (
        config.get("model_type") in FAMILIES
        and config.get("hidden_act", "gelu") == "gelu"
        and config.get("position_embedding_type", "absolute") in (None, "absolute")
        and not config.get("is_decoder", False)
        and config.get("embedding_size", config.get("hidden_size")) == config.get("hidden_size")
    )


def build(config: Mapping[str, Any], tensors: Tensors, head: Head | None, *, int8: bool = False) -> Graph:
    """The graph of an encoder.

    Inputs are ``ids`` int64 ``[rows, n]``, right-padded, and ``lengths`` int32 ``[rows]``; outputs are ``hidden``
    ``[rows, n, hidden]``, ``mean`` and ``cls`` ``[rows, hidden]``, and ``logits`` ``[rows, n, labels]`` with a head.

    Raises
    ------
    ModelError: a tensor is missing or has a shape that does not fit ``config``.
    """
    _check_shapes(config, tensors)
    graph = Graph(int8)
    x = _embeddings(graph, config, tensors)
    for i in range(config["num_hidden_layers"]):
        x = _layer(graph, config, tensors, f"encoder.layer.{i}.", x)
    graph.add("Identity", x, name="hidden")
    _pooled(graph)
    if head is not None:
        product = graph.add("MatMul", "hidden", graph.weight("head.weight", head.weight.T))
        graph.add("Add", product, graph.weight("head.bias", head.bias), name="logits")
    return graph


def _check_shapes(config: Mapping[str, Any], tensors: Tensors) -> None:
    try:
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
            "embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
            "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        }
        norms = ["embeddings.LayerNorm"]
        for i in range(config["num_hidden_layers"]):
            layer = f"encoder.layer.{i}"
            square = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
            blocks: dict[str, tuple[int, ...]] = {name: (hidden, hidden) for name in square}
            blocks |= {"intermediate.dense": (inner, hidden), "output.dense": (hidden, inner)}
            for name, shape in blocks.items():
                shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
            norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        shapes |= {f"{norm}.{part}": (hidden,) for norm in norms for part in ("weight", "bias")}
    except KeyError as error:
        raise ModelError(f"config.json lacks {error}, which a {config['model_type']} encoder needs") from error
    for name, shape in shapes.items():
        found = tensors[name].shape if name in tensors else "missing"
        if found != shape:
            raise ModelError(f"the weight {name} is {found}; config.json asks for {shape}")


def _norm(graph: Graph, config: Mapping[str, Any], tensors: Tensors, name: str, x: str) -> str:
    weight, bias = (graph.weight(f"{name}.{part}", tensors[f"{name}.{part}"]) for part in ("weight", "bias"))
    epsilon = float(config.get("layer_norm_eps", 1e-12))
    return str(graph.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=epsilon))


def _embeddings(graph: Graph, config: Mapping[str, Any], tensors: Tensors) -> str:
    # All tokens are of type 0, so its row joins the positions once, here.
    positions = tensors["embeddings.position_embeddings.weight"][position_offset(config) :]
    positions = positions + tensors["embeddings.token_type_embeddings.weight"][0]
    words = tensors["embeddings.word_embeddings.weight"]
    zero = graph.weight("zero", np.zeros(1, np.int64))
    columns = graph.add("Shape", "ids", start=1, end=2)
    rows = graph.add("Slice", graph.weight("positions", positions), zero, columns, zero)
    x = graph.add("Add", graph.add("Gather", graph.weight("words", words), "ids"), rows)
    return _norm(graph, config, tensors, "embeddings.LayerNorm", x)


def _attention(graph: Graph, config: Mapping[str, Any], tensors: Tensors, prefix: str, x: str) -> str:
    names = [f"{prefix}attention.self.{part}" for part in ("query", "key", "value")]
    weight = np.concatenate([tensors[f"{name}.weight"] for name in names])
    bias = graph.weight(f"{prefix}qkv.bias", np.concatenate([tensors[f"{name}.bias"] for name in names]))
    options = {"domain": CONTRIB, "num_heads": config["num_attention_heads"]}
    if not graph.int8:
        # One operator projects and attends; it is a few percent faster than MatMul, Split, MultiHeadAttention.
        return str(graph.add("Attention", x, graph.weight(f"{prefix}qkv", weight.T), bias, "lengths", **options))
    sizes = graph.weight("qkv.sizes", np.full(3, len(weight) // 3, np.int64))
    query, key, value = graph.add("Split", graph.dense(x, f"{prefix}qkv", weight), sizes, outputs=3, axis=-1)
    return str(graph.add("MultiHeadAttention", query, key, value, bias, "lengths", **options))


def _layer(graph: Graph, config: Mapping[str, Any], tensors: Tensors, prefix: str, x: str) -> str:
    def dense(x: str, name: str) -> str:
        return graph.dense(x, prefix + name, tensors[f"{prefix}{name}.weight"])

    def add_norm(x: str, skip: str, block: str) -> str:
        # Three operators: SkipLayerNormalization does the same in one, and its CPU kernel takes three times as long.
        name = f"{prefix}{block}.dense.bias"
        x = graph.add("Add", graph.add("Add", x, graph.weight(name, tensors[name])), skip)
        return _norm(graph, config, tensors, f"{prefix}{block}.LayerNorm", x)

    attended = _attention(graph, config, tensors, prefix, x)
    x = add_norm(dense(attended, "attention.output.dense"), x, "attention.output")
    name = f"{prefix}intermediate.dense.bias"
    y = graph.add("BiasGelu", dense(x, "intermediate.dense"), graph.weight(name, tensors[name]), domain=CONTRIB)
    return add_norm(dense(y, "output.dense"), x, "output")


def _pooled(graph: Graph) -> None:
    """``mean`` over the true tokens, as a product with the mask, and ``cls``, the first token's state."""
    zero, one = graph.weight("scalar.zero", np.array(0, np.int64)), graph.weight("scalar.one", np.array(1, np.int64))
    first = graph.weight("axis.one", np.ones(1, np.int64))
    lengths = graph.add("Unsqueeze", graph.add("Cast", "lengths", to=7), first)
    columns = graph.add("Squeeze", graph.add("Shape", "ids", start=1, end=2))
    mask = graph.add("Cast", graph.add("Less", graph.add("Range", zero, columns, one), lengths), to=1)
    total = graph.add("MatMul", graph.add("Unsqueeze", mask, first), "hidden")
    graph.add("Div", graph.add("Squeeze", total, first), graph.add("Cast", lengths, to=1), name="mean")
    graph.add("Gather", "hidden", zero, name="cls", axis=1)
