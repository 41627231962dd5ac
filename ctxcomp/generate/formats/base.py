"""The contract of a checkpoint format, and what the formats share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ctxcomp.errors import InputError, ModelError
from ctxcomp.generate.formats.headers import Layer
from ctxcomp.generate.weights.tensors import QuantizedWeight

Tensors = dict[str, Tensor]
Shape = tuple[int, int]

FLOATS = ("F16", "BF16", "F32")


@dataclass(frozen=True)
class Scheme:
    """How one layer is quantized.

    Parameters
    ----------
    bits: bits of a code.
    group_size: columns per group; 0 for one group per row.
    symmetric: no zero points.
    act_order: columns are scattered over the groups.
    """

    bits: int
    group_size: int
    symmetric: bool = False
    act_order: bool = False

    def columns(self, k: int) -> int:
        """Columns per group in a layer of K columns."""
        return min(self.group_size, k) or k

    def groups(self, k: int) -> int:
        """Groups in a layer of K columns."""
        return -(-k // self.columns(k))


@dataclass(frozen=True)
class Form:
    """What a format must know of a layer to describe it: [N, K], how it is quantized, columns per group."""

    shape: Shape
    scheme: Scheme
    columns: int


class Format(ABC):
    """One checkpoint format with the settings of one checkpoint."""

    name: ClassVar[str]
    """As `save_quantized` and ``quant_method`` name it."""
    markers: ClassVar[tuple[str, ...]]
    """A layer that has a tensor of such a name is quantized."""

    @classmethod
    @abstractmethod
    def read(cls, settings: Mapping[str, Any]) -> Self:
        """From the ``quantization_config`` of a config.json; `ModelError` where it asks for what we have not."""

    @classmethod
    @abstractmethod
    def holding(cls, layers: Mapping[str, Form], dense: Sequence[str]) -> Self:
        """The format that can hold these layers, others being ``dense``; `InputError` where it cannot."""

    @classmethod
    @abstractmethod
    def encode(cls, name: str, weight: QuantizedWeight) -> Tensors:
        """The tensors of a layer; `InputError` where the format cannot hold it."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The ``quantization_config`` to write."""

    @abstractmethod
    def layout(self, name: str, shape: Shape, found: Layer) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
        """The dtypes and shape that each tensor of a layer [N, K] must have; ``found`` are those that are there."""

    @abstractmethod
    def decode(self, name: str, shape: Shape, tensors: Tensors) -> QuantizedWeight:
        """A layer [N, K] from its tensors."""

    @property
    def saves_as(self) -> str:
        """The name of the format that a model read from this checkpoint is saved in."""
        return self.name

    def select(self, name: str, shape: Shape, found: Layer) -> Layer:
        """The tensors to load for a layer [N, K], checked.

        Raises
        ------
        ModelError: one is missing or of another dtype or shape.
        """
        chosen: Layer = {}
        for suffix, (dtypes, wanted) in self.layout(name, shape, found).items():
            entry = found.get(suffix)
            if entry is None:
                raise ModelError(f"{name}.{suffix} is missing in the checkpoint: {self.name} needs it")
            if entry.dtype not in dtypes or entry.shape != wanted:
                raise ModelError(
                    f"{name}.{suffix} is {entry.dtype} {list(entry.shape)} in the checkpoint; a layer {list(shape)} "
                    f"quantized as config.json says needs {' or '.join(dtypes)} {list(wanted)}"
                )
            chosen[suffix] = entry
        return chosen


def form_of(weight: QuantizedWeight) -> Form:
    """The form of a weight; one group per row is the group size 0."""
    size = 0 if weight.group_size >= weight.shape[1] else weight.group_size
    scheme = Scheme(weight.bits, size, weight.zeros is None, weight.groups is not None)
    return Form(weight.shape, scheme, weight.group_size)


def check_plain(name: str, weight: QuantizedWeight, format_name: str) -> None:
    """Refuse what only our own format can hold.

    Raises
    ------
    InputError: the weight is more than codes, scales and zeros.
    """
    extras = {
        "outliers": weight.outliers,
        "a low-rank part": weight.low_rank,
        "groups of different bits": weight.group_bits,
    }
    found = [extra for extra, value in extras.items() if value is not None]
    if found:
        raise InputError(f"{name} has {' and '.join(found)}, which {format_name} cannot hold: use format='native'")
    if weight.shape[1] % min(weight.group_size, weight.shape[1]):
        raise InputError(
            f"{name} has {weight.shape[1]} columns, no multiple of its group size {weight.group_size}: other readers "
            f"of {format_name} would read it wrong; use format='native' or another group_size"
        )


def zeros_or_none(zeros: Tensor, bits: int) -> Tensor | None:
    """Zero points [N, G], or None where all stand in the middle, as those of a symmetric weight do."""
    return None if bool((zeros == 2 ** (bits - 1)).all()) else zeros


def groups_or_none(name: str, groups: Tensor, group_size: int, count: int) -> Tensor | None:
    """The group of each column [K] as int32, or None where they are in order.

    Raises
    ------
    ModelError: the groups are not of their size.
    """
    in_order = torch.arange(len(groups), device=groups.device) // group_size
    if torch.equal(groups.long(), in_order):
        return None
    if not torch.equal(groups.long().sort().values, in_order):
        raise ModelError(
            f"{name} assigns its {len(groups)} columns to groups {int(groups.min())} to {int(groups.max())}: "
            f"{count} groups of {group_size} columns are needed"
        )
    return groups.to(torch.int32)


def check_scales(name: str, scales: Tensor) -> Tensor:
    """The scales themselves.

    Raises
    ------
    ModelError: one is not finite.
    """
    if not bool(torch.isfinite(scales).all()):
        raise ModelError(f"{name} has scales that are not finite: the checkpoint is damaged")
    return scales


def half_scales(name: str, weight: QuantizedWeight, format_name: str) -> Tensor:
    """The scales as float16, [N, G].

    Raises
    ------
    InputError: float16 cannot hold one.
    """
    scales = weight.scales.to(torch.float16)
    if not bool((torch.isfinite(scales) & ((scales != 0) | (weight.scales == 0))).all()):
        raise InputError(f"{name} has scales beyond float16, which {format_name} stores: use 'compressed-tensors'")
    return scales


def whole_number(settings: Mapping[str, Any], key: str, allowed: Sequence[int] | None = None) -> int:
    """An integer setting.

    Raises
    ------
    ModelError: it is none, or not an allowed one.
    """
    value = settings.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or (allowed is not None and value not in allowed):
        choices = "a whole number" if allowed is None else f"one of {', '.join(map(str, allowed))}"
        raise ModelError(f"the checkpoint's quantization_config has {key} = {value!r}: {choices} is supported")
    return value


def group_size_setting(settings: Mapping[str, Any], key: str = "group_size") -> int:
    """A group size; -1 and none stand for one group per row, which is 0 here.

    Raises
    ------
    ModelError: it is no group size.
    """
    if settings.get(key) in (None, -1):
        return 0
    size = whole_number(settings, key)
    if size < 1:
        raise ModelError(f"the checkpoint's quantization_config has {key} = {size}: a positive number or -1 is needed")
    return size
