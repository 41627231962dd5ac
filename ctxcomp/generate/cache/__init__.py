"""KV caches that take less memory inside plain ``model.generate``."""

from ctxcomp.generate.cache.attention import install
from ctxcomp.generate.cache.cache import CompressedCache
from ctxcomp.generate.cache.codec import Block, Codec
from ctxcomp.generate.cache.evictor import Evictor, LayerView
from ctxcomp.generate.cache.policy import KVPolicy

__all__ = ["Block", "Codec", "CompressedCache", "Evictor", "KVPolicy", "LayerView", "install"]
