"""Layers of a checkpoint in a model under construction: from a linear layer to its packed tensors, and on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ctxcomp.errors import InputError, ModelError
from ctxcomp.generate.formats.base import Form, Format, Shape, Tensors, form_of
from ctxcomp.generate.formats.headers import Layer, nothing_to_initialize, read_layers
from ctxcomp.generate.formats.lossless import lossless_state
from ctxcomp.generate.formats.native import Native
from ctxcomp.generate.weights.dfloat11 import DFloat11Embedding, DFloat11Linear
from ctxcomp.generate.weights.linear import QuantizedLinear
from ctxcomp.generate.weights.models import is_linear, weight_of


class PackedLinear(nn.Module):
    """Stands for a linear layer while its tensors are read: they are its buffers, named as in the checkpoint.

    Parameters
    ----------
    name: of the layer in the checkpoint.
    linear: the layer, whose weight may be on the meta device.
    found: the tensors to read, and a bias if the checkpoint has one.
    """

    bias: nn.Parameter | None

    def __init__(self, name: str, linear: nn.Module, found: Layer) -> None:
        super().__init__()
        self.name = name
        self.weight = nothing_to_initialize()
        self.shape: Shape = (weight_of(linear).shape[0], weight_of(linear).shape[1])
        bias = getattr(linear, "bias", None)
        self.register_parameter("bias", bias if isinstance(bias, nn.Parameter) else None)
        for suffix, entry in found.items():
            if suffix != "bias":
                self.register_buffer(suffix, entry.empty())
            elif self.bias is None:  # GPTQ writes a bias of zeros for layers that have none
                self.bias = nn.Parameter(entry.empty(), requires_grad=False)

    def tensors(self) -> Tensors:
        """What was read, without the bias."""
        return dict(self.named_buffers())


def place(model: nn.Module, fmt: Format, files: Sequence[str]) -> None:
    """Put a `PackedLinear` in the place of every linear layer that the files hold quantized, and see to the rest.

    Raises
    ------
    ModelError: the files do not hold what the format or the model needs.
    """
    linears = {name: module for name, module in model.named_modules() if is_linear(module)}
    layers = read_layers(files, fmt.markers)
    replaced = fmt.lossless.place(model, files) if isinstance(fmt, Native) else []
    if not layers and not replaced:
        raise ModelError(
            f"config.json says that the model is quantized as {fmt.name}, but no layer in {', '.join(files)} has "
            f"{' or '.join(fmt.markers)}"
        )
    for name, found in layers.items():
        own = _own_name(name, linears, getattr(model, "base_model_prefix", ""))
        if own is None:
            raise ModelError(f"{name} is quantized in the checkpoint, but {type(model).__name__} has no such layer")
        n, k = weight_of(linears[own]).shape
        chosen = fmt.select(name, (n, k), found)
        if "bias" in found:
            chosen["bias"] = found["bias"]
        model.set_submodule(own, PackedLinear(name, linears[own], chosen))
        replaced.append(own)
    _untie(model, replaced)


def settle(model: nn.Module, fmt: Format) -> None:
    """Make every `PackedLinear`, its tensors read, a `QuantizedLinear`, and the lossless layers."""
    if isinstance(fmt, Native):
        fmt.lossless.settle(model)
    for own, module in list(model.named_modules()):
        if isinstance(module, PackedLinear):
            weight = fmt.decode(module.name, module.shape, module.tensors())
            bias = module.bias
            if bias is not None and bias.numel() != module.shape[0]:
                raise ModelError(f"{module.name}.bias has {bias.numel()} values, the layer {module.shape[0]} outputs")
            model.set_submodule(own, QuantizedLinear.from_weight(weight, bias))


def _untie(model: Any, replaced: Sequence[str]) -> None:
    """Forget ties to weights that are no more."""
    gone = {f"{name}.weight" for name in replaced}
    model.all_tied_weights_keys = {
        target: source for target, source in model.all_tied_weights_keys.items() if not gone & {target, source}
    }


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """The quantized layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def is_compressed(model: nn.Module) -> bool:
    """Whether a model has layers that only a format of ours can store."""
    return any(isinstance(m, QuantizedLinear | DFloat11Linear | DFloat11Embedding) for m in model.modules())


def packed_state(model: nn.Module, kind: type[Format]) -> tuple[Tensors, Format]:
    """The state of a model with its layers as a format stores them, and the format with its settings.

    Raises
    ------
    InputError: the format cannot hold a layer.
    """
    layers = quantized_layers(model)
    lossless_tensors, lossless = lossless_state(model)
    owned = tuple(f"{name}." for name in (*layers, *lossless.layers, *(lossless.shared or {})))
    state = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith(owned)} | lossless_tensors
    forms: dict[str, Form] = {}
    for name, layer in layers.items():
        weight = layer.to_weight()
        forms[name] = form_of(weight)
        state |= {f"{name}.{suffix}": tensor for suffix, tensor in kind.encode(name, weight).items()}
        if layer.bias is not None:
            state[f"{name}.bias"] = layer.bias.data
    dense = [name for name, module in model.named_modules() if is_linear(module)]
    fmt = kind.holding(forms, dense)
    if lossless.layers:
        if not isinstance(fmt, Native):
            raise InputError(f"{lossless.layers[0]} is compressed losslessly: only format='native' can hold it")
        fmt = replace(fmt, lossless=lossless)
    return state, fmt


def _own_name(name: str, linears: Mapping[str, nn.Module], prefix: str) -> str | None:
    """The name in the model of a layer of the checkpoint, which may be without the prefix of the base model."""
    choices = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))
    return next((choice for choice in choices if choice in linears), None)
