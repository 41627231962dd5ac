"""Every error ctxcomp raises on purpose.

CtxcompError
├── InputError               (also ValueError)   what the caller gave cannot be used
│   ├── BudgetError                              the budget is malformed, or protected text alone exceeds it
│   └── UnknownMethodError                       no method or option has that name
├── MissingDependencyError   (also ImportError)  an optional package is not installed
├── ModelError                                   a checkpoint is missing, damaged or of an unsupported kind
└── CacheError                                   a cache file cannot be opened or written

A message says what was given, what is allowed and what to do.
"""

from __future__ import annotations


class CtxcompError(Exception):
    """Base of all errors that ctxcomp raises on purpose."""


class InputError(CtxcompError, ValueError):
    """What the caller gave cannot be used."""


class BudgetError(InputError):
    """The budget is malformed, or text that must be kept does not fit into it."""


class UnknownMethodError(InputError):
    """No method, option or model has that name."""


class MissingDependencyError(CtxcompError, ImportError):
    """An optional package is needed and not installed."""


class ModelError(CtxcompError):
    """A checkpoint is missing, damaged or of an unsupported kind."""


class CacheError(CtxcompError):
    """A cache file cannot be opened or written."""
