"""Names of weight-quantization methods. A new method is one line in `METHODS`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ctxcomp.errors import UnknownMethodError
from ctxcomp.fields import field_types, nearest

if TYPE_CHECKING:
    from ctxcomp.generate.weights.method import WeightMethod

_HERE = "ctxcomp.generate.weights"

METHODS = {
    "rtn": f"{_HERE}.rtn:Rtn",
    "awq": f"{_HERE}.awq:Awq",
    "gptq": f"{_HERE}.gptq:Gptq",
    "smoothquant+": f"{_HERE}.smoothquant_plus:SmoothquantPlus",
    "spqr": f"{_HERE}.spqr:Spqr",
    "slim": f"{_HERE}.slim:Slim",
}

LOSSLESS = "dfloat11"
"""Not a quantization: `quantize` takes its name too."""


def load_method(name: str, **fields: Any) -> WeightMethod:
    """A method by name, with its fields.

    Raises
    ------
    UnknownMethodError: no such method or field; the message has the nearest name.
    InputError: a field does not take this value.
    """
    if name not in METHODS:
        raise UnknownMethodError(f"no quantization method {name!r}: {nearest(str(name), [*METHODS, LOSSLESS])}")
    module, _, attribute = METHODS[name].partition(":")
    found: type[WeightMethod] = getattr(importlib.import_module(module), attribute)
    known = field_types(found)
    for field in fields:
        if field not in known:
            raise UnknownMethodError(f"{name} has no field {field!r}: {nearest(field, known)}")
    return found(**fields)
