"""The local generator: small weights, a small KV cache, answers that copy from the documents.

Names are imported when they are first used: importing this package brings neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxcomp.optional import lazily

if TYPE_CHECKING:
    from ctxcomp.generate.cache import CompressedCache
    from ctxcomp.generate.documents import DocumentCache
    from ctxcomp.generate.generator import Generator
    from ctxcomp.generate.planner import Plan, plan
    from ctxcomp.generate.results import Generated, Stream
    from ctxcomp.generate.sampling import Sampling
    from ctxcomp.generate.usage import Usage
    from ctxcomp.generate.weights import quantize

__all__ = [
    "CompressedCache",
    "DocumentCache",
    "Generated",
    "Generator",
    "Plan",
    "Sampling",
    "Stream",
    "Usage",
    "plan",
    "quantize",
]

_HOMES = {
    "CompressedCache": "cache",
    "DocumentCache": "documents",
    "Generated": "results",
    "Generator": "generator",
    "Plan": "planner",
    "Sampling": "sampling",
    "Stream": "results",
    "Usage": "usage",
    "plan": "planner",
    "quantize": "weights",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
