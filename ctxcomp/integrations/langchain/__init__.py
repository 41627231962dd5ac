"""LangChain 1.x: a document compressor, a runnable for chains, two retrievers, and `agents` with a middleware."""
# ruff: noqa: E402

from ctxcomp.optional import require

require("langchain_core", extra="langchain")

from ctxcomp.integrations.langchain.compressor import CtxcompDocumentCompressor
from ctxcomp.integrations.langchain.index import IndexRetriever
from ctxcomp.integrations.langchain.retriever import CompressedRetriever
from ctxcomp.integrations.langchain.runnable import CompressContext

__all__ = ["CompressContext", "CompressedRetriever", "CtxcompDocumentCompressor", "IndexRetriever"]
