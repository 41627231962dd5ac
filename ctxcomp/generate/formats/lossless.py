"""Losslessly compressed layers (DFloat11) in our own format.

Per layer ``sign_mantissa``, ``stream``, ``gaps`` and ``positions`` as the codec has them; once per model
``dfloat11.lengths`` and ``dfloat11.lookup``, the code. A weight that several layers share is stored once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ctxcomp.errors import ModelError
from ctxcomp.generate.formats.base import Tensors
from ctxcomp.generate.formats.headers import Layer, nothing_to_initialize, read_layers
from ctxcomp.generate.weights.dfloat11 import CodeTable, DFloat11Embedding, DFloat11Linear, EncodedWeight
from ctxcomp_kernels.dfloat11 import Encoded, Table

CODE = "dfloat11"
TABLE = ("lengths", "lookup")
ARRAYS = {"sign_mantissa": "U8", "stream": "I64", "gaps": "U8", "positions": "I64"}


class Packed(nn.Module):
    """Holds tensors while they are read, named as in the checkpoint, in the place of a layer or beside the layers."""

    bias: nn.Parameter | None

    def __init__(self, found: Layer, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.weight = nothing_to_initialize()
        for suffix, entry in found.items():
            self.register_buffer(suffix, entry.empty())
        weight: Any = getattr(layer, "weight", None)
        bias: Any = getattr(layer, "bias", None)
        self.shape: tuple[int, ...] = () if weight is None else tuple(weight.shape)
        self.embeds = isinstance(layer, nn.Embedding)
        self.register_parameter("bias", bias)


@dataclass(frozen=True)
class Lossless:
    """Which layers of a model are stored so, and which others share their weights: name to name."""

    layers: tuple[str, ...] = ()
    shared: Mapping[str, str] | None = None

    @classmethod
    def read(cls, settings: Any) -> Lossless:
        """From ``quantization_config["lossless"]``.

        Raises
        ------
        ModelError: it is not what we write.
        """
        if settings is None:
            return cls()
        if not isinstance(settings, Mapping) or not isinstance(settings.get("shared", {}), Mapping):
            raise ModelError(f"the checkpoint's quantization_config has lossless = {settings!r}: a table is needed")
        return cls(tuple(settings.get("layers") or ()), dict(settings.get("shared") or {}))

    def settings(self) -> dict[str, Any]:
        """What config.json holds."""
        return {"layers": list(self.layers), "shared": dict(self.shared or {})}

    def place(self, model: nn.Module, files: Sequence[str]) -> list[str]:
        """Make room for what will be read; the names of the layers that are replaced.

        Raises
        ------
        ModelError: the files do not hold it, or the model has no such layer.
        """
        if not self.layers:
            return []
        found = read_layers(files, ("sign_mantissa", "lookup"))
        if not set(TABLE) <= set(found.get(CODE, ())):
            raise ModelError(f"the checkpoint holds no {CODE}.lookup: it is incomplete")
        known = dict(model.named_modules())
        for name in self.layers:
            layer, arrays = known.get(name), found.get(name, {})
            if not isinstance(layer, nn.Linear | nn.Embedding):
                raise ModelError(f"{name} is stored losslessly, but {type(model).__name__} has no such layer")
            for suffix, dtype in ARRAYS.items():
                if suffix not in arrays or arrays[suffix].dtype != dtype:
                    raise ModelError(f"{name}.{suffix} is missing in the checkpoint, or not {dtype}")
            if arrays["sign_mantissa"].shape != (layer.weight.numel(),):
                raise ModelError(
                    f"{name}.sign_mantissa has {list(arrays['sign_mantissa'].shape)} values in the checkpoint, "
                    f"the layer {layer.weight.numel()}"
                )
            model.set_submodule(name, Packed({suffix: arrays[suffix] for suffix in ARRAYS}, layer))
        for name in self.shared or {}:
            model.set_submodule(name, Packed({}, known[name]))
        model.add_module(CODE, Packed({suffix: found[CODE][suffix] for suffix in TABLE}))
        return [*self.layers, *(self.shared or {})]

    def settle(self, model: nn.Module) -> None:
        """Make the layers, once their tensors are read."""
        if not self.layers:
            return
        held = dict(model.get_submodule(CODE).named_buffers())
        code = CodeTable(Table(held["lengths"], held["lookup"]))
        delattr(model, CODE)
        encoded: dict[str, EncodedWeight] = {}
        for name in (*self.layers, *(self.shared or {})):
            packed = model.get_submodule(name)
            if not isinstance(packed, Packed):
                raise ModelError(f"{name} was replaced while the checkpoint was read")
            source = (self.shared or {}).get(name, name)
            if source == name:
                arrays: dict[str, Tensor] = dict(packed.named_buffers())
                encoded[name] = EncodedWeight(Encoded(packed.shape, table=code.table(), **arrays), code)
            weight, bias = encoded[source], packed.bias
            layer = DFloat11Embedding(weight) if packed.embeds else DFloat11Linear(weight, bias)
            model.set_submodule(name, layer)


def lossless_state(model: nn.Module) -> tuple[Tensors, Lossless]:
    """The tensors of the losslessly compressed layers of a model, and which they are."""
    state: Tensors = {}
    names: dict[int, str] = {}
    shared: dict[str, str] = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, DFloat11Linear | DFloat11Embedding):
            continue
        if id(layer.encoded) in names:
            shared[name] = names[id(layer.encoded)]
        else:
            names[id(layer.encoded)] = name
            state |= {f"{name}.{suffix}": getattr(layer.encoded, suffix) for suffix in ARRAYS}
            state |= {f"{CODE}.{suffix}": getattr(layer.encoded.code, suffix) for suffix in TABLE}
        if isinstance(layer, DFloat11Linear) and layer.bias is not None:
            state[f"{name}.bias"] = layer.bias.data
    return state, Lossless(tuple(names.values()), shared)
