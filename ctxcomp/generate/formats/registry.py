"""Which format a checkpoint is in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctxcomp.errors import ModelError, UnknownMethodError
from ctxcomp.fields import nearest
from ctxcomp.generate.formats.awq import Awq
from ctxcomp.generate.formats.base import Format
from ctxcomp.generate.formats.compressed_tensors import CompressedTensors
from ctxcomp.generate.formats.gptq import Gptq, GptqV2
from ctxcomp.generate.formats.native import Native

METHOD = "ctxcomp"
"""Our name among the quantization methods of transformers."""

FORMATS: dict[str, type[Format]] = {kind.name: kind for kind in (Native, CompressedTensors, Awq, Gptq, GptqV2)}


def format_class(name: str) -> type[Format]:
    """The format of this name.

    Raises
    ------
    UnknownMethodError: there is none.
    """
    if name not in FORMATS:
        raise UnknownMethodError(f"there is no checkpoint format {name!r}: {nearest(name, FORMATS)}")
    return FORMATS[name]


def read_format(settings: Mapping[str, Any]) -> Format:
    """The format that a ``quantization_config`` describes.

    Raises
    ------
    ModelError: it is a method or a variant that we do not read.
    """
    method = settings.get("quant_method")
    name = settings.get("format") if method == METHOD else method
    if name not in FORMATS:
        raise ModelError(
            f"the checkpoint is quantized as {method!r}{f' in the format {name!r}' if method == METHOD else ''}: "
            f"{', '.join(FORMATS)} can be read"
        )
    return FORMATS[name].read(settings)
