"""`CtxcompDocumentCompressor`: for `ContextualCompressionRetriever` and `DocumentCompressorPipeline`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import PrivateAttr

from ctxcomp.integrations.langchain.fields import DocumentFields
from ctxcomp.integrations.langchain.runnable import CompressContext


class CtxcompDocumentCompressor(DocumentFields, BaseDocumentCompressor):
    r"""Documents in, what is left of them out, all under one budget.

    Ids and metadata stay; spans, score and statistics stand under ``metadata_key``; the documents that came in are not
    changed. The budget holds for the contents joined by the method's separator, by default a blank line
    (``"\n\n".join(d.page_content for d in documents)``).
    """

    _compress: CompressContext = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Make the runnable that does the work."""
        super().model_post_init(context)
        self._compress = CompressContext(**{**self.shared_fields(), "output": "documents"})

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """What is left of the documents, in their order; "" is no query.

        Raises
        ------
        InputError: an argument is of the wrong kind.
        BudgetError: text that must be kept does not fit into the budget.
        """
        documents = self._compress.invoke(documents, {"callbacks": callbacks}, query=query)
        return list(documents)

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """As `compress_documents`; the work is done in a thread."""
        documents = await self._compress.ainvoke(documents, {"callbacks": callbacks}, query=query)
        return list(documents)
