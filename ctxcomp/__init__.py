"""Context compression for RAG: the fewest tokens that still hold the answer, every character traceable."""

from ctxcomp.caching import Cached
from ctxcomp.compose import Chain, FallbackToInput
from ctxcomp.compressor import Compressor, Selector
from ctxcomp.counting import TokenCounter, resolve_counter
from ctxcomp.errors import (
    BudgetError,
    CacheError,
    CtxcompError,
    InputError,
    MissingDependencyError,
    ModelError,
    UnknownMethodError,
)
from ctxcomp.integrations.decorator import compress_context
from ctxcomp.registry import load, methods
from ctxcomp.rewriter import Rewriter
from ctxcomp.types import (
    Budget,
    Compressed,
    CompressedLatents,
    CompressedMixed,
    CompressedText,
    CompressedVision,
    Passage,
    Request,
    Span,
    Stats,
)
from ctxcomp.version import __version__

__all__ = [
    "Budget",
    "BudgetError",
    "CacheError",
    "Cached",
    "Chain",
    "Compressed",
    "CompressedLatents",
    "CompressedMixed",
    "CompressedText",
    "CompressedVision",
    "Compressor",
    "CtxcompError",
    "FallbackToInput",
    "InputError",
    "MissingDependencyError",
    "ModelError",
    "Passage",
    "Request",
    "Rewriter",
    "Selector",
    "Span",
    "Stats",
    "TokenCounter",
    "UnknownMethodError",
    "__version__",
    "compress_context",
    "load",
    "methods",
    "resolve_counter",
]
