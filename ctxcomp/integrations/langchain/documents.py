"""LangChain's documents to passages and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.documents import Document

from ctxcomp.errors import InputError
from ctxcomp.integrations.langchain.fields import DocumentFields
from ctxcomp.integrations.records import described, finite, passage_records, titled
from ctxcomp.types import CompressedText, Passage


def as_documents(value: Any) -> list[Document]:
    """Documents from documents, strings or one string.

    Raises
    ------
    InputError: something else is among them.
    """
    given = [value] if isinstance(value, (str, Document)) else value
    if not isinstance(given, Sequence) or isinstance(given, bytes):
        raise InputError(f"documents must be a list of Document or str, got {type(value).__name__}")
    for i, item in enumerate(given):
        if not isinstance(item, (str, Document)):
            raise InputError(f"documents[{i}] must be a Document or a str, got {type(item).__name__}")
    return [Document(page_content=item) if isinstance(item, str) else item for item in given]


def passages_of(documents: Sequence[Document], fields: DocumentFields) -> tuple[Passage, ...]:
    """The documents as passages; metadata goes along untouched."""
    return tuple(
        Passage(
            document.page_content,
            id=document.id or "",
            title=titled(document.metadata, fields.title_key),
            score=finite(document.metadata.get(fields.score_key)),
            metadata=document.metadata,
        )
        for document in documents
    )


def compressed_documents(
    documents: Sequence[Document], result: CompressedText, fields: DocumentFields
) -> list[Document]:
    """Copies of the documents with what is left of each; kind, id and metadata stay."""
    copies = [
        document.model_copy(
            update={"page_content": text, "metadata": described(document.metadata, record, fields.metadata_key)}
        )
        for document, text, record in zip(documents, result.passage_texts, passage_records(result), strict=True)
    ]
    return [copy for copy in copies if copy.page_content or not fields.drop_empty]
