"""Visual token pruning: fewer tokens of page images, chosen under one budget across pages.

Names are imported when they are first used: importing this package brings neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxcomp.optional import lazily

if TYPE_CHECKING:
    from ctxcomp.visual.adapters import families
    from ctxcomp.visual.compressing import compress_together
    from ctxcomp.visual.flops import prefill_flops
    from ctxcomp.visual.methods import METHODS, Method
    from ctxcomp.visual.pages import open_pages
    from ctxcomp.visual.pictures import picture
    from ctxcomp.visual.prompt import PrunedPrompt
    from ctxcomp.visual.pruner import VisualPruner
    from ctxcomp.visual.relevance import maxsim_map, maxsim_score
    from ctxcomp.visual.reporting import Report, report
    from ctxcomp.visual.together import Together, settle

__all__ = [
    "METHODS",
    "Method",
    "PrunedPrompt",
    "Report",
    "Together",
    "VisualPruner",
    "compress_together",
    "families",
    "maxsim_map",
    "maxsim_score",
    "open_pages",
    "picture",
    "prefill_flops",
    "report",
    "settle",
]

_HOMES = {
    "METHODS": "methods",
    "Method": "methods",
    "PrunedPrompt": "prompt",
    "Report": "reporting",
    "Together": "together",
    "VisualPruner": "pruner",
    "compress_together": "compressing",
    "families": "adapters",
    "maxsim_map": "relevance",
    "maxsim_score": "relevance",
    "open_pages": "pages",
    "picture": "pictures",
    "prefill_flops": "flops",
    "report": "reporting",
    "settle": "together",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
