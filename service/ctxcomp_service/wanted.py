"""What a caller wants done with chat messages: the fields that the messages form and the gateway share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ctxcomp.types import Budget
from ctxcomp_service.auth import Caller
from ctxcomp_service.schemas import BudgetIn

DEFAULT_KEEP = 0.5
"""Where neither the request nor the key has a budget: gateways in the field send none and expect an answer."""

Role = Literal["user", "tool", "function", "assistant", "system", "developer"]
ROLES: tuple[Role, ...] = ("user", "tool", "function")

Method = Annotated[
    str | None, Field(max_length=200, description="One of GET /v1/methods, or several joined by +; the key's default.")
]


class Wanted(BaseModel):
    """How the context in messages is to be compressed."""

    model_config = ConfigDict(extra="forbid")

    query: str | None = Field(
        None, description="What the context of the newest turn is for; the last user message's question if absent."
    )
    budget: BudgetIn | None = Field(
        None, description=f"For the passages themselves. The key's default if absent, else keep {DEFAULT_KEEP}."
    )
    context: Annotated[list[str], Field(max_length=1000)] | None = Field(
        None, description="The texts that are context, as they stand in the messages; looked for if absent."
    )
    method: Method = None
    options: dict[str, Any] = Field(default_factory=dict, description="Fields of the method, see GET /v1/methods.")
    share: Literal["message", "conversation"] = Field(
        "message",
        description="message: the context of each message has the budget and the question of its own turn, so that "
        "earlier messages come out the same on every turn and prompt caches hit. conversation: one budget and the "
        "newest question for all.",
    )
    roles: tuple[Role, ...] = Field(ROLES, description="Whose messages are looked into.")
    markers: bool | None = Field(
        None,
        description="Say in the text that something is left out, with the id of the original (hash=...), within the "
        "budget; the key's default if absent.",
    )
    frozen: int = Field(0, ge=0, description="The first messages, as many as this, stay as they are.")
    recent: int = Field(0, ge=0, description="The last messages, as many as this, stay as they are.")

    def budget_for(self, caller: Caller) -> Budget:
        """The budget of this request: its own, the key's, or the default."""
        return self.budget.to_budget() if self.budget else caller.budget or Budget(keep=DEFAULT_KEEP)
