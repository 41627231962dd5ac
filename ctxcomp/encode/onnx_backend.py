"""Encoders on ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxcomp.encode.graph import CONTRIB, Graph

Floats = NDArray[np.float32]
INLINE_BYTES = 1024
"""Smaller weights stand in the graph itself: shape inference reads some of them."""


class OnnxBackend:
    """One ONNX Runtime session over a graph.

    Parameters
    ----------
    graph: what ``graph.build`` returned.
    threads: intra-op threads, 0 for the runtime's choice.
    """

    def __init__(self, graph: Graph, *, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Waiting threads that spin gained 5 % on an idle machine and lost 13 % on a busy one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        external = {name: array for name, array in graph.weights.items() if array.nbytes > INLINE_BYTES}
        # Weights are handed over in memory: no second copy in the graph, and no 2 GB limit.
        self._weights = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in external.items()}
        options.add_external_initializers(list(self._weights), list(self._weights.values()))
        model = _model(graph)
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, ids: NDArray[np.int64], lengths: NDArray[np.int64], output: str) -> Floats:
        """One forward pass; ``output`` is "hidden", "mean", "cls" or "logits"."""
        feed = {"ids": ids, "lengths": lengths.astype(np.int32)}
        result: Floats = self._session.run([output], feed)[0]
        return result


def _model(graph: Graph) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    initializers = []
    for name, array in graph.weights.items():
        if array.nbytes <= INLINE_BYTES:
            initializers.append(numpy_helper.from_array(array, name))
            continue
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="memory")
        initializers.append(tensor)
    names = {name for node in graph.nodes for name in node.output}
    outputs: list[tuple[str, list[Any]]] = [("hidden", ["rows", "n", None]), ("mean", ["rows", None])]
    outputs += [("cls", ["rows", None]), ("logits", ["rows", "n", None])]
    proto = helper.make_graph(
        graph.nodes,
        "encoder",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["rows", "n"]),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, ["rows"]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs if name in names],
        initializers,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(CONTRIB, 1)]
    model = helper.make_model(proto, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())
