"""Documents' key-value caches: read once, stored compressed, asked many times."""

from ctxcomp.generate.documents.document_cache import DocumentCache
from ctxcomp.generate.documents.record import Record

__all__ = ["DocumentCache", "Record"]
