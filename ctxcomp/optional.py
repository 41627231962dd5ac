"""Optional packages: imported where they are used, with one clear message when absent."""

from __future__ import annotations

import importlib
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
