"""compressed-tensors ``pack-quantized``: weights of 2 to 8 bits, packed densely along the inputs.

``weight_packed`` int32 [N, ceil(K*bits/32)], ``weight_scale`` [N, G], ``weight_shape`` int64 [2]; asymmetric:
``weight_zero_point`` int32 [ceil(N*bits/32), G], packed along the outputs; in an order by activation (read, not
written: 0.19 dropped it) ``weight_g_idx`` int32 [K]. What is stored is the code, 0 to 2**bits - 1.
Source: compressed-tensors 0.20 (the format; the code is ours).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch

from ctxcomp.errors import InputError, ModelError
from ctxcomp.generate.formats.base import (
    FLOATS,
    Form,
    Format,
    Scheme,
    Shape,
    Tensors,
    check_plain,
    check_scales,
    group_size_setting,
    groups_or_none,
    whole_number,
)
from ctxcomp.generate.formats.headers import Layer
from ctxcomp.generate.weights.tensors import QuantizedWeight
from ctxcomp_kernels.pack import pack, unpack

LAYOUT = "pack-quantized"
ACT_ORDER = ("group", "dynamic", True)
CLASSES = ("Linear", "Conv1D")
"""Names of module classes that a target may give instead of a layer's name."""


@dataclass(frozen=True)
class CompressedTensors(Format):
    """Settings of a compressed-tensors checkpoint.

    Parameters
    ----------
    groups: schemes with their targets: names, ``re:`` patterns or module classes.
    ignored: names or patterns of layers that are not quantized.
    """

    groups: tuple[tuple[Scheme, tuple[str, ...]], ...]
    ignored: tuple[str, ...] = ()

    name: ClassVar[str] = "compressed-tensors"
    markers: ClassVar[tuple[str, ...]] = ("weight_packed",)

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self:
        """From ``quantization_config``; only packed integer weights, activations as they are."""
        for key in ("sparsity_config", "transform_config"):
            if settings.get(key):
                raise ModelError(f"the checkpoint has a {key}: only plain {LAYOUT} weights are supported")
        groups = settings.get("config_groups")
        if not isinstance(groups, Mapping) or not groups:
            raise ModelError("the checkpoint's quantization_config has no config_groups: compressed-tensors needs them")
        return cls(
            tuple(_read_group(name, group, settings.get("format")) for name, group in groups.items()),
            tuple(settings.get("ignore") or ()),
        )

    @classmethod
    def holding(cls, layers: Mapping[str, Form], dense: Sequence[str]) -> Self:
        """For layers of any widths and group sizes."""
        schemes: dict[Scheme, list[str]] = {}
        sizes = {form.columns for form in layers.values() if form.scheme.group_size}
        for name, form in layers.items():
            # One group per row is a group size like any other, where other layers have it.
            size = form.columns if form.columns in sizes else form.scheme.group_size
            schemes.setdefault(replace(form.scheme, group_size=size), []).append(name)
        if len(schemes) == 1:
            return cls(((next(iter(schemes)), CLASSES[:1]),), tuple(dense))
        return cls(tuple((scheme, tuple(names)) for scheme, names in schemes.items()), tuple(dense))

    def settings(self) -> dict[str, Any]:
        """The ``quantization_config`` to write."""
        return {
            "quant_method": self.name,
            "format": LAYOUT,
            "quantization_status": "compressed",
            "global_compression_ratio": None,
            "kv_cache_scheme": None,
            "ignore": list(self.ignored),
            "config_groups": {
                f"group_{i}": {
                    "targets": list(targets),
                    "weights": _weights_setting(scheme),
                    "input_activations": None,
                    "output_activations": None,
                    "format": LAYOUT,
                }
                for i, (scheme, targets) in enumerate(self.groups)
            },
        }

    def layer_scheme(self, name: str) -> Scheme:
        """The scheme of a layer: of the targets that fit, a name goes before a pattern, and that before a class.

        Raises
        ------
        ModelError: no target fits.
        """
        fits = (
            lambda target: target == name,
            lambda target: target.startswith("re:") and re.match(target[3:], name) is not None,
            lambda target: target in CLASSES,
        )
        for fit in fits:
            for scheme, targets in self.groups:
                if any(map(fit, targets)):
                    return scheme
        raise ModelError(f"{name} is quantized, but no group in the checkpoint's quantization_config names it")

    def layout(self, name: str, shape: Shape, found: Layer) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
        """Dtypes and shapes for a layer [N, K]."""
        n, k = shape
        scheme = self.layer_scheme(name)
        bits, groups = scheme.bits, scheme.groups(k)
        needed: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
            "weight_packed": (("I32",), (n, -(-k * bits // 32))),
            "weight_scale": (FLOATS, (n, groups)),
            "weight_shape": (("I64", "I32"), (2,)),
        }
        if not scheme.symmetric:
            needed["weight_zero_point"] = (("I32",), (-(-n * bits // 32), groups))
        if scheme.act_order or "weight_g_idx" in found:
            needed["weight_g_idx"] = (("I32", "I64"), (k,))
        return needed

    def decode(self, name: str, shape: Shape, tensors: Tensors) -> QuantizedWeight:
        """A layer [N, K] from its tensors."""
        n, k = shape
        if tensors["weight_shape"].tolist() != [n, k]:
            raise ModelError(f"{name}.weight_shape says {tensors['weight_shape'].tolist()}, the layer is {[n, k]}")
        scheme = self.layer_scheme(name)
        columns, zeros = scheme.columns(k), None
        if not scheme.symmetric:
            zeros = unpack(tensors["weight_zero_point"].contiguous(), scheme.bits, n).T.contiguous()
        groups = tensors.get("weight_g_idx")
        if groups is not None and bool((groups == -1).all()):  # as those write it who did not reorder after all
            groups = None
        return QuantizedWeight(
            codes=unpack(tensors["weight_packed"].T.contiguous(), scheme.bits, k),
            scales=check_scales(name, tensors["weight_scale"]),
            zeros=zeros,
            bits=scheme.bits,
            group_size=columns,
            groups=None if groups is None else groups_or_none(name, groups, columns, scheme.groups(k)),
        )

    @classmethod
    def encode(cls, name: str, weight: QuantizedWeight) -> Tensors:
        """The tensors of a layer; scales keep their dtype."""
        check_plain(name, weight, cls.name)
        if weight.groups is not None:
            raise InputError(
                f"{name} has its columns in an order by activation, which compressed-tensors 0.19 no longer reads: use "
                "format='gptq' or 'native'"
            )
        tensors = {
            "weight_packed": pack(weight.codes, weight.bits).T.contiguous(),
            "weight_scale": weight.scales,
            "weight_shape": torch.tensor(weight.shape),
        }
        if weight.zeros is not None:
            tensors["weight_zero_point"] = pack(weight.zeros.T.contiguous(), weight.bits)
        return tensors


def _read_group(name: str, group: Any, default_layout: Any) -> tuple[Scheme, tuple[str, ...]]:
    if not isinstance(group, Mapping):
        raise ModelError(f"group {name!r} of the checkpoint's quantization_config is {group!r}: a table is needed")
    layout = group.get("format") or default_layout
    if layout != LAYOUT:
        raise ModelError(f"group {name!r} of the checkpoint is in the layout {layout!r}: only {LAYOUT!r} is supported")
    weights = group.get("weights")
    if not isinstance(weights, Mapping) or weights.get("type", "int") != "int":
        raise ModelError(f"group {name!r} of the checkpoint has weights {weights!r}: integers are supported")
    if group.get("input_activations") or group.get("output_activations"):
        raise ModelError(f"group {name!r} of the checkpoint quantizes activations: only weights are supported")
    strategy = weights.get("strategy") or ("group" if (weights.get("group_size") or 0) > 0 else "channel")
    if strategy not in ("group", "channel"):
        raise ModelError(f"group {name!r} of the checkpoint has the strategy {strategy!r}: group and channel are known")
    scheme = Scheme(
        bits=whole_number(weights, "num_bits", range(2, 9)),
        group_size=group_size_setting(weights) if strategy == "group" else 0,
        symmetric=bool(weights.get("symmetric", True)),
        act_order=weights.get("actorder") in ACT_ORDER,
    )
    return scheme, tuple(group.get("targets") or ())


def _weights_setting(scheme: Scheme) -> dict[str, Any]:
    return {
        "num_bits": scheme.bits,
        "type": "int",
        "symmetric": scheme.symmetric,
        "strategy": "group" if scheme.group_size else "channel",
        "group_size": scheme.group_size or None,
        "dynamic": False,
        "actorder": None,
        "block_structure": None,
        "observer": "minmax",
        "observer_kwargs": {},
    }
