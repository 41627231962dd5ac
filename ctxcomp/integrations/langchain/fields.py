"""The fields that the compressor, the runnable and the retriever share."""

from __future__ import annotations

from typing import Any

from ctxcomp.integrations.fields import CompressionFields


class DocumentFields(CompressionFields):
    """What to compress with, and how LangChain's documents are read and written."""

    score_key: str | None = "score"
    """Key of a document's metadata where the retriever's score stands; what is no finite number is no score."""

    def shared_fields(self) -> dict[str, Any]:
        """These fields for another object, with the compressor that is already made."""
        fields = {name: getattr(self, name) for name in DocumentFields.model_fields}
        return {**fields, "method": self._compressor, "options": {}}
