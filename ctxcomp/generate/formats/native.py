"""Our own format: everything a `QuantizedWeight` can hold, and dense layers losslessly compressed.

Per layer: ``codes_<bits>`` int32 [ceil(K'*bits/32), N], the K' columns of that width in their order; ``scales``
[N, G]; and where the layer has them ``zeros`` int32 [ceil(G*bits/32), N], ``groups`` int32 [K], ``group_bits`` uint8
[G], ``outlier_rows``, ``outlier_columns``, ``outlier_values`` [m], ``low_rank_b`` [N, r], ``low_rank_a`` [r, K].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ctxcomp.errors import ModelError
from ctxcomp.generate.formats.base import FLOATS, Form, Format, Scheme, Shape, Tensors, check_scales, whole_number
from ctxcomp.generate.formats.headers import Layer
from ctxcomp.generate.formats.lossless import Lossless
from ctxcomp.generate.weights.tensors import Outliers, QuantizedWeight
from ctxcomp_kernels.pack import pack, unpack

VERSION = 1
CODES = "codes_"
INTS = ("I32",)


@dataclass(frozen=True)
class Native(Format):
    """Settings of a checkpoint of ours: bits and columns per group of each quantized layer, and the lossless layers."""

    layers: Mapping[str, tuple[int, int]]
    lossless: Lossless = field(default_factory=Lossless)

    name: ClassVar[str] = "native"
    markers: ClassVar[tuple[str, ...]] = ("scales",)

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self:
        """From ``quantization_config``."""
        if settings.get("version") != VERSION or not isinstance(settings.get("layers"), Mapping):
            raise ModelError(
                f"the checkpoint is of version {settings.get('version')!r} of our format: this ctxcomp reads {VERSION}"
            )
        layers = {}
        for name, layer in settings["layers"].items():
            layers[name] = whole_number(layer, "bits", range(1, 9)), whole_number(layer, "group_size")
        return cls(layers, Lossless.read(settings.get("lossless")))

    @classmethod
    def holding(cls, layers: Mapping[str, Form], dense: Sequence[str]) -> Self:
        """For any layers."""
        return cls({name: (form.scheme.bits, form.columns) for name, form in layers.items()})

    def settings(self) -> dict[str, Any]:
        """The ``quantization_config`` to write."""
        layers = {name: {"bits": bits, "group_size": size} for name, (bits, size) in self.layers.items()}
        written = {"quant_method": "ctxcomp", "format": self.name, "version": VERSION, "layers": layers}
        return written | ({"lossless": self.lossless.settings()} if self.lossless.layers else {})

    def layout(self, name: str, shape: Shape, found: Layer) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
        """Dtypes and shapes for a layer [N, K]."""
        n, k = shape
        bits, scheme = self._scheme(name)
        groups = scheme.groups(k)
        widths = sorted(int(suffix.removeprefix(CODES)) for suffix in found if suffix.startswith(CODES))
        m: tuple[int, ...] = found["outlier_rows"].shape if "outlier_rows" in found else (0,)
        r = found["low_rank_a"].shape[0] if "low_rank_a" in found else 0
        optional: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
            "zeros": (INTS, (-(-groups * max([bits, *widths]) // 32), n)),
            "groups": (INTS, (k,)),
            "group_bits": (("U8",), (groups,)),
            "outlier_rows": (INTS, m),
            "outlier_columns": (INTS, m),
            "outlier_values": (FLOATS, m),
            "low_rank_b": (FLOATS, (n, r)),
            "low_rank_a": (FLOATS, (r, k)),
        }
        pairs = [("outlier_rows", "outlier_columns", "outlier_values"), ("low_rank_a", "low_rank_b")]
        wanted = {key for key in optional if key in found}
        wanted |= {key for pair in pairs if wanted & set(pair) for key in pair}
        codes: dict[str, tuple[tuple[str, ...], tuple[int, ...]]]
        if "group_bits" in found:  # how many columns each width has is known once the tensors are read
            codes = {f"{CODES}{width}": (INTS, found[f"{CODES}{width}"].shape) for width in widths}
        else:
            codes = {f"{CODES}{bits}": (INTS, (-(-k * bits // 32), n))}
        return codes | {"scales": (FLOATS, (n, groups))} | {key: optional[key] for key in sorted(wanted)}

    def decode(self, name: str, shape: Shape, tensors: Tensors) -> QuantizedWeight:
        """A layer [N, K] from its tensors."""
        n, k = shape
        bits, scheme = self._scheme(name)
        size, groups, group_bits = scheme.columns(k), tensors.get("groups"), tensors.get("group_bits")
        widths = _column_bits(k, bits, size, groups, group_bits, tensors["scales"].device)
        codes = torch.empty(n, k, dtype=torch.uint8, device=widths.device)
        for width in sorted(set(widths.tolist())):
            columns = widths == width
            words = tensors.get(f"{CODES}{width}")
            if words is None or words.shape != (-(-int(columns.sum()) * width // 32), n):
                raise ModelError(f"{name} holds no codes of {width} bits for the columns that should have them")
            codes[:, columns] = unpack(words, width, int(columns.sum()))
        zeros, rows, low_rank = tensors.get("zeros"), tensors.get("outlier_rows"), tensors.get("low_rank_b")
        return QuantizedWeight(
            codes,
            check_scales(name, tensors["scales"]),
            None if zeros is None else unpack(zeros, max(bits, int(widths.max())), tensors["scales"].shape[1]),
            bits,
            size,
            groups=groups,
            group_bits=group_bits,
            outliers=None if rows is None else _outliers(name, shape, tensors),
            low_rank=None if low_rank is None else (low_rank, tensors["low_rank_a"]),
        )

    @classmethod
    def encode(cls, name: str, weight: QuantizedWeight) -> Tensors:
        """The tensors of a layer."""
        widths = weight.column_bits()
        tensors = {
            f"{CODES}{width}": pack(weight.codes[:, widths == width].contiguous(), width)
            for width in sorted(set(widths.tolist()))
        }
        tensors["scales"] = weight.scales
        if weight.zeros is not None:
            tensors["zeros"] = pack(weight.zeros, max(weight.bits, int(widths.max())))
        if weight.outliers is not None:
            tensors["outlier_rows"] = weight.outliers.rows
            tensors["outlier_columns"] = weight.outliers.columns
            tensors["outlier_values"] = weight.outliers.values
        if weight.low_rank is not None:
            tensors["low_rank_b"], tensors["low_rank_a"] = weight.low_rank
        optional = {"groups": weight.groups, "group_bits": weight.group_bits}
        return tensors | {key: tensor for key, tensor in optional.items() if tensor is not None}

    def _scheme(self, name: str) -> tuple[int, Scheme]:
        if name not in self.layers:
            raise ModelError(f"{name} is quantized, but the checkpoint's quantization_config does not name it")
        bits, group_size = self.layers[name]
        return bits, Scheme(bits, group_size)


def _column_bits(
    k: int, bits: int, size: int, groups: Tensor | None, group_bits: Tensor | None, device: torch.device
) -> Tensor:
    if group_bits is None:
        return torch.full((k,), bits, device=device)
    return group_bits.long()[torch.arange(k, device=device) // size if groups is None else groups.long()]


def _outliers(name: str, shape: Shape, tensors: Tensors) -> Outliers:
    rows, columns = tensors["outlier_rows"], tensors["outlier_columns"]
    for indices, size in ((rows, shape[0]), (columns, shape[1])):
        if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= size):
            raise ModelError(f"{name} has outliers outside the layer {list(shape)}: the checkpoint is damaged")
    return Outliers(rows, columns, tensors["outlier_values"])
