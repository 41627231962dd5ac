"""The pydantic fields that the integrations share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from ctxcomp.compressor import Compressor
from ctxcomp.integrations.settings import METADATA_KEY, budget_of, compressor_of
from ctxcomp.registry import DEFAULT_METHOD
from ctxcomp.types import Budget, CompressedText


class CompressionFields(BaseModel):
    """What to compress with, and how documents are read and written."""

    budget: Annotated[Budget, BeforeValidator(budget_of)]
    """What may remain of all documents of a call together: a `Budget`, ``{"tokens": N}`` or ``{"keep": F}``."""

    method: str | Compressor[CompressedText] = DEFAULT_METHOD
    """A method's name as `ctxcomp.load` takes it, or a ready compressor."""

    options: dict[str, Any] = Field(default_factory=dict)
    """The fields of a method given by name."""

    metadata_key: str | None = METADATA_KEY
    """Key of a document's metadata for its ``spans`` (characters of the document that came in), its best ``score``
    and the ``stats`` of the call, all plain JSON; a record from an earlier compression moves to ``before``. None
    writes nothing."""

    title_key: str | None = "title"
    """Key of a document's metadata where its title stands, for ``header`` and ``elision`` templates."""

    drop_empty: bool = True
    """Leave out documents of which nothing is kept; otherwise they stay in their place, empty."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    _compressor: Compressor[CompressedText] = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Make the compressor, so that a wrong name or option fails here and not in a call."""
        super().model_post_init(context)
        self._compressor = compressor_of(self.method, self.options)
