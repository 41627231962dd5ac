"""`CompressionMiddleware`: for the agents of LangChain 1.x, ``create_agent(..., middleware=[...])``."""
# ruff: noqa: E402

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ctxcomp.optional import require

require("langchain.agents", extra="langchain-agents")

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, AnyMessage, ToolMessage
from langchain_core.runnables.config import run_in_executor
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Command

from ctxcomp.caching import Cached
from ctxcomp.compressor import Compressor
from ctxcomp.errors import InputError
from ctxcomp.integrations.langchain.messages import plain, question_in, record_of, turns, with_content
from ctxcomp.integrations.langchain.tracing import announce
from ctxcomp.integrations.settings import METADATA_KEY, budget_of, compressor_of
from ctxcomp.messages import CompressedMessages, Located, compress_messages, locate
from ctxcomp.messages.content import without_marks
from ctxcomp.registry import DEFAULT_METHOD
from ctxcomp.types import Budget, CompressedText, Stats

LONG_CHARACTERS = 1000
LONGEST_ARGUMENT = 500
"""A tool's text argument says what is looked for unless it has more characters than this."""

ToolResult = ToolMessage | Command[Any]


class CompressionMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Compresses long tool results once, when the tool returns, and retrieved context in the user's messages.

    A tool result enters the conversation as it was compressed and stays so; its spans, statistics and original stand
    in ``response_metadata["ctxcomp"]``, which no model is sent. Context in user messages is compressed on the way to
    the model: the state keeps it whole. What becomes of it depends on that message and earlier ones alone, so a later
    call sends the same prefix, and prompt caches hit. The system message and the model's own messages are not touched.

    Parameters
    ----------
    budget: what may remain of the context that the user's messages of one turn hold: a `Budget`, ``{"tokens": N}`` or
        ``{"keep": F}``.
    tool_budget: what may remain of one tool result; None is ``budget``.
    method: a method's name, whose results are remembered, or a ready compressor (wrap it into `Cached` for that).
    options: the fields of a method given by name.
    min_characters: what has less context than this stays as it is.
    exclude_tools: names of tools whose results stay as they are. So do errors, code and data without texts.
    elision: stands where passages went away, for example ``"[… left out]"``; None leaves nothing.
    keep_original: keep a tool's own result in ``response_metadata``; without it what was dropped is lost.
    tool_query: what a tool result is for; None takes the user's last question and the call's text arguments.
    """

    def __init__(
        self,
        budget: Budget | Mapping[str, Any],
        *,
        tool_budget: Budget | Mapping[str, Any] | None = None,
        method: str | Compressor[CompressedText] = DEFAULT_METHOD,
        options: Mapping[str, Any] | None = None,
        min_characters: int = LONG_CHARACTERS,
        exclude_tools: Sequence[str] = (),
        elision: str | None = None,
        keep_original: bool = True,
        tool_query: Callable[[ToolCallRequest], str] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(exclude_tools, str):
            raise InputError(f"exclude_tools must be a list of names, got the str {exclude_tools!r}")
        made = compressor_of(method, options or {})
        self.compressor: Compressor[CompressedText] = Cached(inner=made) if isinstance(method, str) else made
        self.budget = budget_of(budget)
        self.tool_budget = self.budget if tool_budget is None else budget_of(tool_budget)
        self.min_characters = min_characters
        self.exclude_tools = frozenset(exclude_tools)
        self.elision = elision
        self.keep_original = keep_original
        self.tool_query = tool_query or query_of_call

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any] | AIMessage:
        """Call the model with less context."""
        return handler(request.override(messages=self.shortened(request.messages)))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any] | AIMessage:
        """As `wrap_model_call`; the work is done in a thread."""
        messages = await run_in_executor(None, self.shortened, request.messages)
        return await handler(request.override(messages=messages))

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolResult]) -> ToolResult:
        """Call the tool and compress what it returns."""
        result: ToolResult = self._of_tool(request, handler(request))
        return result

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolResult]]
    ) -> ToolResult:
        """As `wrap_tool_call`; the work is done in a thread."""
        result: ToolResult = await run_in_executor(None, self._of_tool, request, await handler(request))
        return result

    def shortened(self, messages: Sequence[AnyMessage]) -> list[AnyMessage]:
        """The messages with less context; those without context are the same objects."""
        fresh: list[AnyMessage] = []
        stats: Stats | None = None
        query = ""
        for turn in turns(messages):
            given = [plain(message) for message in turn]
            located = locate(given, roles=("user",), min_characters=self.min_characters)
            query = located.query or query
            done = self._of_turn(given, replace(located, query=query))
            now = [without_marks(message) for message in given] if done is None else done.messages
            fresh += [with_content(message, new["content"]) for message, new in zip(turn, now, strict=True)]
            stats = None if done is None else done.results[0].stats
        if stats is not None:  # what earlier turns saved was announced in theirs
            announce(stats)
        return fresh

    def _of_turn(self, given: list[dict[str, Any]], located: Located) -> CompressedMessages | None:
        if not located.places:
            return None
        return compress_messages(given, self.compressor, self.budget, located=located, elision=self.elision)

    def _of_tool(self, request: ToolCallRequest, result: Any) -> Any:
        if request.tool_call["name"] in self.exclude_tools:
            return result
        return self._result(result, self.tool_query(request))

    def _result(self, result: Any, query: str) -> Any:
        """What a tool returns with its messages compressed: one, a command that adds some, or a list of these."""
        if isinstance(result, ToolMessage):
            return self._message(result, query)
        if isinstance(result, list):
            return [self._result(item, query) for item in result]
        if isinstance(result, Command) and isinstance(result.update, Mapping) and "messages" in result.update:
            messages = self._result(result.update["messages"], query)
            return replace(result, update={**result.update, "messages": messages})
        return result

    def _message(self, message: ToolMessage, query: str) -> ToolMessage:
        if message.status == "error" or METADATA_KEY in message.response_metadata:
            return message
        done = compress_messages(
            [plain(message)],
            self.compressor,
            self.tool_budget,
            query=query,
            elision=self.elision,
            min_characters=self.min_characters,
        )
        content = done.messages[0]["content"]
        if content == message.content:
            return message
        announce(done.results[0].stats)
        record = record_of(done, message.content, self.keep_original)
        metadata = {**message.response_metadata, METADATA_KEY: record}
        return message.model_copy(update={"content": content, "response_metadata": metadata})


def query_of_call(request: ToolCallRequest) -> str:
    """The user's last question, and what the call itself looks for."""
    state = request.state
    messages = state["messages"] if isinstance(state, Mapping) else getattr(state, "messages", state)
    arguments = [v for v in request.tool_call["args"].values() if isinstance(v, str) and len(v) <= LONGEST_ARGUMENT]
    return "\n".join(filter(None, dict.fromkeys([question_in(messages), *arguments])))
