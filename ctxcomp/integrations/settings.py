"""What every integration is configured with: a method and a budget, also as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctxcomp.compressor import Compressor
from ctxcomp.errors import BudgetError, InputError
from ctxcomp.registry import load
from ctxcomp.types import Budget, CompressedText

METADATA_KEY = "ctxcomp"
"""Under this key of a document's metadata stand its spans, its score and the statistics."""


def compressor_of(method: str | Compressor[CompressedText], options: Mapping[str, Any]) -> Compressor[CompressedText]:
    """The compressor that ``method`` names or is.

    Parameters
    ----------
    method: what `ctxcomp.load` takes, or a ready compressor.
    options: the fields of a method given by name.

    Raises
    ------
    InputError: no such method or option, or options beside a ready compressor.
    """
    if isinstance(method, str):
        return load(method, **options)
    if not isinstance(method, Compressor):
        raise InputError(f"method must be the name of a method or a compressor, got {type(method).__name__}")
    if options:
        raise InputError(f"options ({', '.join(options)}) are for a method given by name: set them on the compressor")
    return method


def budget_of(value: Any) -> Budget:
    """A budget, given as one or as ``{"tokens": N}`` or ``{"keep": F}``.

    Raises
    ------
    BudgetError: it is neither.
    """
    if isinstance(value, Budget):
        return value
    if isinstance(value, Mapping) and value.keys() <= {"tokens", "keep"}:
        return Budget(**value)
    raise BudgetError(f'a budget is Budget(tokens=N), Budget(keep=F), {{"tokens": N}} or {{"keep": F}}, got {value!r}')
