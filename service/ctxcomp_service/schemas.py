"""The native wire form: what goes in and what comes out, with the examples that OpenAPI shows."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ctxcomp.types import Budget, Passage

EXAMPLE: dict[str, Any] = {
    "query": "Who wrote Middlemarch?",
    "passages": [
        {"id": "novel", "text": "Middlemarch is a novel by George Eliot. It was published in eight parts."},
        "George Gissing wrote New Grub Street. It appeared in 1891.",
    ],
    "budget": {"keep": 0.4},
}

Finite = Annotated[float, Field(allow_inf_nan=False)]


def well_formed(text: str) -> str:
    """Refuse half of a surrogate pair: JSON can spell one, and no answer could repeat it in UTF-8."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"half of a surrogate pair at character {error.start}: cut text between characters"
            ) from None
    return text


Text = Annotated[str, AfterValidator(well_formed)]


class Strict(BaseModel):
    """A part of a request: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class PassageIn(Strict):
    """One retrieved text."""

    text: Text
    id: Text = Field(default="", max_length=1000)
    title: Text | None = Field(default=None, max_length=1000)
    score: Finite | None = Field(default=None, description="The retriever's; higher is better.")
    metadata: dict[str, Any] = Field(default_factory=dict, description="`protect`: [[start, end], ...] is always kept.")

    def to_passage(self) -> Passage:
        """The library's own."""
        return Passage(self.text, self.id, self.title, self.score, self.metadata)


class BudgetIn(Strict):
    """How much may remain: exactly one of the two."""

    tokens: int | None = Field(default=None, ge=0, le=2**53, description="At most this many tokens.")
    keep: Finite | None = Field(default=None, gt=0, le=1, description="At most this share of the tokens that came in.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.tokens is None) == (self.keep is None):
            raise ValueError("exactly one of tokens and keep must be given")
        return self

    def to_budget(self) -> Budget:
        """The library's own."""
        return Budget(tokens=self.tokens, keep=self.keep)


class CompressRequest(Strict):
    """One query with its passages."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    query: Text = Field(default="", description="What the context is for; empty for none.")
    passages: list[Text | PassageIn] = Field(description="In the order in which they are to stand.")
    budget: BudgetIn | None = Field(default=None, description="The key's own default if there is none.")
    method: str | None = Field(
        default=None, description="One of GET /v1/methods, or several joined by +.", max_length=200
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Fields of the method, see GET /v1/methods.")
    model: str | None = Field(
        default=None, description="The model whose tokenizer counts, such as gpt-4o.", max_length=200
    )
    include: list[Literal["scores"]] = Field(default_factory=list, description="scores: every unit, kept or not.")

    def to_passages(self) -> tuple[Passage, ...]:
        """The library's own."""
        return tuple(Passage(p) if isinstance(p, str) else p.to_passage() for p in self.passages)


class SpanOut(BaseModel):
    """What was kept: `passages[passage].text[start:end]`, in characters."""

    passage: int
    start: int
    end: int
    score: float


class UnitOut(BaseModel):
    """A unit that was kept or dropped as a whole; `score` is null where the method gave none."""

    passage: int
    start: int
    end: int
    score: float | None
    kept: bool


class PassageOut(BaseModel):
    """What is left of a passage."""

    id: str
    text: str


class StatsOut(BaseModel):
    """What the compression did."""

    tokens_in: int
    tokens_out: int
    keep: float
    seconds: float
    method: str
    counter: str
    fallback: str | None = Field(description="Why the result is the input as it came; null where it is not.")
    notes: list[str] = Field(description="What a method that writes has to say, such as invented numbers and names.")


class CompressResponse(BaseModel):
    """The compressed context."""

    text: str
    spans: list[SpanOut] | None = Field(description="null only where text was generated.")
    passages: list[PassageOut]
    stats: StatsOut
    units: list[UnitOut] | None = Field(default=None, description='With include: ["scores"].')
    request_id: str


class OriginalResponse(BaseModel):
    """An original text."""

    original_content: str


class OptionOut(BaseModel):
    """An option of a method."""

    name: str
    takes: str
    default: Any


class MethodOut(BaseModel):
    """A method on offer."""

    name: str
    summary: str
    options: list[OptionOut]


class BudgetOut(BaseModel):
    """A default budget."""

    tokens: int | None
    keep: float | None


class LimitsOut(BaseModel):
    """What one request may be."""

    passages: int
    characters: int
    query_characters: int
    body_bytes: int


class MethodsResponse(BaseModel):
    """What this caller may ask for."""

    default: str
    budget: BudgetOut | None
    methods: list[MethodOut]
    limits: LimitsOut
