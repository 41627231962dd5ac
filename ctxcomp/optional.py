"""What is imported where it is used: optional packages, with a clear message when absent, and a package's own names."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from ctxcomp.errors import MissingDependencyError


def require(module: str, *, extra: str) -> Any:
    """Import ``module``, or say how to install it.

    Parameters
    ----------
    module: dotted module name, for example ``"langchain_core.documents"``.
    extra: the extra of ctxcomp that brings it.

    Raises
    ------
    MissingDependencyError: the top-level package is not installed. An import error from *inside* an
        installed package is not hidden.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:
            raise
        raise MissingDependencyError(
            f"{package!r} is needed here and is not installed: run `pip install 'ctxcomp[{extra}]'`"
        ) from error


def lazily(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose names are imported when they are first used.

    Parameters
    ----------
    package: its ``__name__``.
    homes: for each name the module within the package that holds it.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return get, lambda: sorted(homes)
