"""GPTQ, versions 1 and 2: packed along the inputs; version 1 stores each zero point less one.

``qweight`` int32 [ceil(K*bits/32), N], ``qzeros`` int32 [G, ceil(N*bits/32)], ``scales`` float16 [G, N], ``g_idx``
int32 [K]. Codes are dense across words, low bits first (the "continuous" layout, not GPTQModel's "planar").
Source: AutoGPTQ and GPTQModel 7.7 (the format; the code is ours).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ctxcomp.errors import InputError, ModelError
from ctxcomp.generate.formats.base import (
    Form,
    Format,
    Scheme,
    Shape,
    Tensors,
    check_plain,
    check_scales,
    group_size_setting,
    groups_or_none,
    half_scales,
    whole_number,
    zeros_or_none,
)
from ctxcomp.generate.formats.headers import Layer
from ctxcomp.generate.weights.tensors import QuantizedWeight
from ctxcomp_kernels.pack import pack, unpack

WIDTHS = (2, 3, 4, 8)
KINDS = ("gptq", "gptq_v2")


@dataclass(frozen=True)
class Gptq(Format):
    """Settings of a GPTQ checkpoint.

    Parameters
    ----------
    scheme: what holds for every layer without rules of its own.
    version: 1, whose zero points are stored less one, or 2.
    dynamic: the checkpoint's per-layer rules: a pattern, and what it changes.
    """

    scheme: Scheme
    version: int = 1
    dynamic: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    name: ClassVar[str] = "gptq"
    writes: ClassVar[int] = 1
    """The version that is written."""
    markers: ClassVar[tuple[str, ...]] = ("qweight",)

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self:
        """From ``quantization_config``; 2, 3, 4 and 8 bits in the continuous layout."""
        kind = settings.get("checkpoint_format") or settings.get("format") or "gptq"
        if kind not in KINDS:
            raise ModelError(f"the checkpoint is GPTQ in the layout {kind!r}: {' and '.join(KINDS)} are supported")
        rules = settings.get("dynamic") or {}
        if not isinstance(rules, Mapping):
            raise ModelError(f"the checkpoint's quantization_config has dynamic = {rules!r}: a table is needed")
        scheme = _scheme(settings, settings)
        return cls(scheme, 2 if kind == "gptq_v2" else 1, tuple(rules.items()))

    @classmethod
    def holding(cls, layers: Mapping[str, Form], dense: Sequence[str]) -> Self:
        """For layers that are all alike."""
        schemes = [form.scheme for form in layers.values()]
        kinds = {(scheme.bits, scheme.group_size) for scheme in schemes}
        if len(kinds) != 1:
            raise InputError(
                f"GPTQ holds one width and group size, the layers have {sorted(kinds)}: use 'compressed-tensors'"
            )
        bits, group_size = kinds.pop()
        symmetric, act_order = all(s.symmetric for s in schemes), any(s.act_order for s in schemes)
        skips: tuple[tuple[str, dict[str, Any]], ...] = tuple(
            (f"-:^{re.escape(name)}$", {}) for name in dense if name != "lm_head"
        )
        return cls(Scheme(bits, group_size, symmetric, act_order), cls.writes, skips)

    def settings(self) -> dict[str, Any]:
        """The ``quantization_config`` to write."""
        written: dict[str, Any] = {
            "quant_method": "gptq",
            "bits": self.scheme.bits,
            "group_size": self.scheme.group_size or -1,
            "sym": self.scheme.symmetric,
            "desc_act": self.scheme.act_order,
            "checkpoint_format": KINDS[self.version - 1],
            "lm_head": False,
        }
        return written | ({"dynamic": dict(self.dynamic)} if self.dynamic else {})

    @property
    def saves_as(self) -> str:
        """The version that was read."""
        return KINDS[self.version - 1]

    def layer_scheme(self, name: str) -> Scheme:
        """What holds for one layer: the first of the checkpoint's rules that fits its name, or the default."""
        for pattern, change in self.dynamic:
            if not pattern.startswith("-:") and re.match(pattern.removeprefix("+:"), name):
                base = {"bits": self.scheme.bits, "group_size": self.scheme.group_size or -1}
                return _scheme(base | dict(change), {"sym": self.scheme.symmetric, "desc_act": self.scheme.act_order})
        return self.scheme

    def layout(self, name: str, shape: Shape, found: Layer) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
        """Dtypes and shapes for a layer [N, K]."""
        n, k = shape
        scheme = self.layer_scheme(name)
        bits, groups = scheme.bits, scheme.groups(k)
        needed: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
            "qweight": (("I32",), (-(-k * bits // 32), n)),
            "qzeros": (("I32",), (groups, -(-n * bits // 32))),
            "scales": (("F16", "BF16", "F32"), (groups, n)),
        }
        if "g_idx" in found or scheme.act_order:
            needed["g_idx"] = (("I32", "I64"), (k,))
        return needed

    def decode(self, name: str, shape: Shape, tensors: Tensors) -> QuantizedWeight:
        """A layer [N, K] from its tensors."""
        n, k = shape
        scheme = self.layer_scheme(name)
        words = tensors["qzeros"].T.contiguous()
        zeros = unpack(words, scheme.bits, n) if self.version == 2 else _unpack_less_one(words, scheme.bits, n)
        columns, groups = scheme.columns(k), tensors.get("g_idx")
        return QuantizedWeight(
            codes=unpack(tensors["qweight"], scheme.bits, k),
            scales=check_scales(name, tensors["scales"].T.contiguous()),
            zeros=zeros_or_none(zeros.T.contiguous(), scheme.bits),
            bits=scheme.bits,
            group_size=columns,
            groups=None if groups is None else groups_or_none(name, groups, columns, scheme.groups(k)),
        )

    @classmethod
    def encode(cls, name: str, weight: QuantizedWeight) -> Tensors:
        """The tensors of a layer; scales become float16."""
        check_plain(name, weight, "GPTQ")
        if weight.bits not in WIDTHS or any(size * weight.bits % 32 for size in weight.shape):
            raise InputError(
                f"{name} {list(weight.shape)} has {weight.bits} bits: GPTQ holds {', '.join(map(str, WIDTHS))} bits "
                "and whole words of codes; use format='compressed-tensors'"
            )
        zeros = weight.zeros
        if zeros is None:
            zeros = torch.full_like(weight.scales, 2 ** (weight.bits - 1), dtype=torch.uint8)
        return {
            "qweight": pack(weight.codes, weight.bits),
            "qzeros": (_pack_less_one if cls.writes == 1 else pack)(zeros.T.contiguous(), weight.bits).T.contiguous(),
            "scales": half_scales(name, weight, "GPTQ").T.contiguous(),
            "g_idx": weight.column_groups().to(torch.int32),
        }


class GptqV2(Gptq):
    """GPTQ written as version 2, which GPTQModel wants of asymmetric weights: 1 has no room for zero points of 0."""

    name: ClassVar[str] = "gptq_v2"
    writes: ClassVar[int] = 2


def _scheme(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> Scheme:
    bits = whole_number(settings, "bits", WIDTHS)
    symmetric, act_order = (settings.get(key, defaults.get(key)) for key in ("sym", "desc_act"))
    return Scheme(bits, group_size_setting(settings), bool(symmetric), bool(act_order))


def _ones(bits: int) -> int:
    """A one in every field of a word, as int32."""
    value = sum(1 << shift for shift in range(0, 32, bits))
    return value - (1 << 32) if value >= 1 << 31 else value


def _unpack_less_one(words: Tensor, bits: int, n: int) -> Tensor:
    """Zero points from version 1: whole words carry, as those who wrote them let them borrow; 3 bits do not."""
    if bits == 3:
        return (unpack(words, bits, n) + 1) & 7
    return unpack(words + _ones(bits), bits, n)


def _pack_less_one(zeros: Tensor, bits: int) -> Tensor:
    """Words of version 1 from zero points."""
    if bits == 3:
        return pack((zeros + 7) & 7, bits)
    return pack(zeros, bits) - _ones(bits)
