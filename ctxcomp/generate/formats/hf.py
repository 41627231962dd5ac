"""transformers runs our layers: a quantizer of the name "ctxcomp", registered by `install`.

Nothing of transformers is patched or replaced: its own quantizers for "awq", "gptq" and "compressed-tensors" stay, and
a checkpoint of theirs is read by ours because `quantized_config` gives its configuration our name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ctxcomp.errors import InputError, ModelError
from ctxcomp.generate.formats.base import Format
from ctxcomp.generate.formats.packed import is_compressed, packed_state, place, quantized_layers, settle
from ctxcomp.generate.formats.registry import METHOD, format_class, read_format
from ctxcomp.generate.weights.grid import find_grid
from ctxcomp.generate.weights.linear import QuantizedLinear
from ctxcomp.generate.weights.models import is_linear
from ctxcomp.generate.weights.rtn import Rtn


class CtxcompConfig(QuantizationConfigMixin):
    """The ``quantization_config`` of a model that runs on our layers.

    Given to ``from_pretrained`` for a checkpoint in full precision, it rounds the weights to nearest while they are
    read, without ever holding the whole model in full precision.

    Parameters
    ----------
    bits, group_size, symmetric: as for `Rtn`, when the checkpoint is in full precision.
    skip: layers to leave as they are: their names, or the last parts of them.
    source: the ``quantization_config`` of a checkpoint that another package made.
    settings: those of a checkpoint of ours.

    Raises
    ------
    InputError: a field is not what it must be.
    """

    def __init__(
        self,
        bits: int = 4,
        group_size: int = 128,
        symmetric: bool = False,
        skip: Sequence[str] = ("lm_head",),
        source: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]  # transformers lists its own methods only
        self.method = Rtn(bits=bits, group_size=group_size, symmetric=symmetric)
        self.skip = tuple(skip)
        settings.pop("quant_method", None)
        self.settings: dict[str, Any] | None = None
        if source is not None:
            self.settings = dict(source)
        elif settings:
            self.settings = {"quant_method": METHOD, **settings}

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds."""
        if self.settings is not None:
            return dict(self.settings)
        fields = {name: getattr(self.method, name) for name in ("bits", "group_size", "symmetric")}
        return {"quant_method": METHOD, **fields, "skip": list(self.skip)}


class CtxcompQuantizer(HfQuantizer):
    """Reads and writes quantized checkpoints, and rounds those in full precision as they are read."""

    quantization_config: CtxcompConfig

    def __init__(self, quantization_config: CtxcompConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.saves_as: str | None = None
        self._format: Format | None = None

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        """Refuse offloading: a layer is repacked once it is read, and must stay where it is."""
        places = {str(place) for place in device_map.values()} if isinstance(device_map, dict) else set()
        if "disk" in places or ("cpu" in places and len(places) > 1):
            raise InputError(f"device_map sends layers to {sorted(places)}: quantized layers cannot be offloaded")

    def _process_model_before_weight_loading(
        self, model: nn.Module, checkpoint_files: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        if self.pre_quantized:
            self._format = read_format(self.quantization_config.to_dict())
            place(model, self._format, checkpoint_files or ())

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
        if self._format is not None:
            settle(model, self._format)
            self.saves_as = self._format.saves_as

    def param_needs_quantization(self, model: nn.Module, param_name: str, **kwargs: Any) -> bool:
        """Whether a weight of a checkpoint in full precision is to be rounded."""
        name, _, last = param_name.rpartition(".")
        skipped = any(f".{name}".endswith(f".{skip}") for skip in self.quantization_config.skip)
        return not self.pre_quantized and last == "weight" and not skipped and is_linear(model.get_submodule(name))

    def get_quantize_ops(self) -> _Round:
        """The operation that rounds a weight."""
        return _Round(self.quantization_config.method)

    def get_state_dict_and_metadata(self, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
        """What ``save_pretrained`` writes; config.json then says the same."""
        if not is_compressed(model):
            raise InputError("no layer of the model is quantized: save it with save_pretrained, without a quantizer")
        state, fmt = packed_state(model, format_class(self.saves_as or "native"))
        self.quantization_config.settings = fmt.settings()
        return state, {}

    def is_serializable(self) -> bool:
        """It can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """It cannot be trained."""
        return False

    @property
    def is_compileable(self) -> bool:
        """``generate`` may compile it."""
        return True

    def _dequantize(self, model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
        for name, layer in quantized_layers(model).items():
            linear = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
            linear.weight = nn.Parameter(layer.to_weight().dequantize(dtype or torch.float32), requires_grad=False)
            linear.register_parameter("bias", layer.bias)
            model.set_submodule(name, linear)
        return model


class _Round(ConversionOps):
    """Puts a rounded layer in the place of the one whose weight was just read."""

    def __init__(self, method: Rtn) -> None:
        self.method = method

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        full_layer_name: str = "",
        model: Any = None,
        missing_keys: set[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, list[Tensor]]:
        """Nothing is left for transformers to put into the model."""
        (value,) = input_dict.values()
        tensor: Tensor = value[0] if isinstance(value, list) else value
        name = full_layer_name.rpartition(".")[0]
        linear = model.get_submodule(name)
        weight = (tensor if isinstance(linear, nn.Linear) else tensor.T).float()
        rtn = self.method
        layer = QuantizedLinear.from_weight(
            find_grid(weight, rtn.bits, rtn.group_size, symmetric=rtn.symmetric).quantized(weight)
        )
        layer.bias = linear.bias  # read before or after, by its name
        model.set_submodule(name, layer)
        if missing_keys is not None:
            missing_keys.discard(full_layer_name)
        return {}


def install() -> None:
    """Register the quantizer with transformers; a second call changes nothing.

    Raises
    ------
    ModelError: another package has taken the name.
    """
    known = AUTO_QUANTIZER_MAPPING.get(METHOD)
    if known is not None:
        if known is not CtxcompQuantizer:
            raise ModelError(f"transformers has another quantizer of the name {METHOD!r}: {known!r}")
        return
    register_quantization_config(METHOD)(CtxcompConfig)
    register_quantizer(METHOD)(CtxcompQuantizer)


def attach(model: Any, name: str) -> None:
    """Make ``save_pretrained`` of a model with our layers write the format of this name."""
    quantizer = CtxcompQuantizer(CtxcompConfig(), pre_quantized=True)
    quantizer.saves_as = format_class(name).name
    model.hf_quantizer = quantizer
    model.is_quantized = True
    model.quantization_method = METHOD
    model.config.quantization_config = quantizer.quantization_config
