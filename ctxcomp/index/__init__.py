"""A compressed vector index: presets by what users want, and its recall measured on the user's own data."""

from ctxcomp.index.index import Index
from ctxcomp.index.presets import PRESETS
from ctxcomp.index.recall import Recall
from ctxcomp.index.split import split

__all__ = ["PRESETS", "Index", "Recall", "split"]
