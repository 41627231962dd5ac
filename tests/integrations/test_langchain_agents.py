"""The middleware in real agents: what the model is sent, what stays in the state, and that prefixes stay equal."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Sequence
from typing import Any

import hypothesis
import pytest

pytest.importorskip("langchain.agents")

from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import Field

from ctxcomp import InputError, UnknownMethodError
from ctxcomp.integrations.langchain.agents import CompressionMiddleware

NOVELS = (
    "Middlemarch is a novel. George Eliot wrote Middlemarch. It is set in the Midlands. It appeared in eight books. "
    "The town has a hospital and a bank. Many families of it are described. Its doctor is called Lydgate. "
)
FILLER = "Bees make honey in a hive. Rain falls on the hills in spring. The road to the coast is long and dusty. "
LONG = FILLER * 4 + NOVELS + FILLER * 4
QUESTION = "Who wrote Middlemarch?"
CONTEXT = f"<context>\n{LONG}\n</context>\n\n{QUESTION}"
MIDDLEWARE: dict[str, Any] = {"budget": {"tokens": 40}, "method": "bm25"}


class Recorder(BaseChatModel):
    """Calls the tools it is told to, one after the other, and records the messages it is sent."""

    calls: list[str] = Field(default_factory=list)
    seen: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "recorder"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Recorder:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.seen.append(copy.deepcopy(messages))
        answered = sum(isinstance(m, ToolMessage) for m in messages)
        if answered < len(self.calls):
            call = {"name": self.calls[answered], "args": {"query": "author of Middlemarch"}, "id": f"call-{answered}"}
            message = AIMessage(content="", tool_calls=[call])
        else:
            message = AIMessage(content=f"answer {len(self.seen)}")
        return ChatResult(generations=[ChatGeneration(message=message)])


@tool
def search(query: str) -> str:
    """Search the library."""
    return LONG


@tool
def parts(query: str) -> list[dict[str, Any]]:
    """Search texts and pictures."""
    return [{"type": "text", "text": LONG}, {"type": "image", "url": "https://example.org/a.png"}]


@tool(response_format="content_and_artifact")
def retrieve(query: str) -> tuple[str, list[Document]]:
    """Search documents."""
    return json.dumps([{"text": LONG, "id": 7}, {"text": FILLER * 6, "id": 8}]), [Document(page_content=LONG)]


@tool
def command(query: str) -> Command[Any]:
    """Answer with a command."""
    return Command(update={"messages": [ToolMessage(LONG, tool_call_id="call-0"), HumanMessage("by the way")]})


@tool
def short(query: str) -> str:
    """Say little."""
    return "George Eliot."


TOOLS = [search, parts, retrieve, command, short]


def wire(messages: Sequence[BaseMessage]) -> list[str]:
    """What a provider is sent of each message, as bytes would be."""
    return [json.dumps([m.type, m.content, getattr(m, "tool_calls", None)]) for m in messages]


def ask(agent: Any, messages: Any, mode: str, **config: Any) -> list[BaseMessage]:
    if mode == "async":
        return asyncio.run(agent.ainvoke({"messages": messages}, **config))["messages"]
    return agent.invoke({"messages": messages}, **config)["messages"]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_long_tool_result_is_compressed_once_and_stays(mode):
    model = Recorder(calls=["search", "short", "search"])
    agent = create_agent(model, TOOLS, middleware=[CompressionMiddleware(**MIDDLEWARE)])
    state = ask(agent, [HumanMessage(QUESTION)], mode)
    result = state[2]
    assert isinstance(result, ToolMessage)
    assert "George Eliot wrote Middlemarch." in result.content
    assert len(result.content) < len(LONG) / 3
    assert (result.tool_call_id, result.name) == ("call-0", "search")
    record = result.response_metadata["ctxcomp"]
    assert record["original"] == LONG
    assert record["stats"]["tokens_out"] <= 40
    assert [LONG[span["start"] : span["end"]] in result.content for span in record["spans"]] == [True] * len(
        record["spans"]
    )
    assert state[4].content == "George Eliot."
    assert state[4].response_metadata == {}
    assert state[6].content == result.content  # the same tool result, the same text
    for earlier, later in zip(model.seen, model.seen[1:], strict=False):
        assert wire(later)[: len(earlier)] == wire(earlier)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_context_in_a_user_message_is_compressed_for_the_model_and_whole_in_the_state(mode):
    model = Recorder(calls=["search"])
    middleware = CompressionMiddleware(**MIDDLEWARE)
    agent = create_agent(
        model, TOOLS, system_prompt=f"Be kind. {LONG}", middleware=[middleware], checkpointer=InMemorySaver()
    )
    config = {"config": {"configurable": {"thread_id": "1"}}}
    first = HumanMessage(CONTEXT, id="h1")
    state = ask(agent, [first], mode, **config)
    assert first.content == state[0].content == CONTEXT
    system, user = model.seen[0]
    assert system.content == f"Be kind. {LONG}"
    assert user.id == "h1"
    assert user.content.startswith("<context>\n")
    assert user.content.endswith(f"\n</context>\n\n{QUESTION}")
    assert "George Eliot wrote Middlemarch." in user.content
    assert len(user.content) < len(CONTEXT) / 3
    second = CONTEXT.replace("Who wrote Middlemarch?", "Where does rain fall?")
    ask(agent, [HumanMessage(second)], mode, **config)
    ask(agent, [HumanMessage("And what else?")], mode, **config)
    assert len(model.seen) == 4
    for earlier, later in zip(model.seen, model.seen[1:], strict=False):
        assert wire(later)[: len(earlier)] == wire(earlier)
    assert "Rain falls" in model.seen[2][-1].content


def test_what_a_message_becomes_depends_on_nothing_later_and_on_no_instance():
    conversation = [
        HumanMessage(CONTEXT),
        AIMessage("George Eliot."),
        HumanMessage([{"type": "text", "text": CONTEXT}, {"type": "image_url", "image_url": {"url": "data:,"}}]),
        AIMessage("Still George Eliot."),
        HumanMessage("Thanks. What of bees?"),
    ]
    before = copy.deepcopy(conversation)
    whole = CompressionMiddleware(**MIDDLEWARE).shortened(conversation)
    assert conversation == before
    for n in range(1, len(conversation)):
        part = CompressionMiddleware(**MIDDLEWARE).shortened(conversation[:n])
        assert wire(part) == wire(whole[:n])
    assert [fresh is old for fresh, old in zip(whole, conversation, strict=True)] == [
        False,
        True,
        False,
        True,
        True,
    ]
    assert whole[2].content[1] == conversation[2].content[1]
    assert "George Eliot" in whole[2].content[0]["text"]


said = st.sampled_from([QUESTION, "Where does rain fall?", "Thanks.", ""])
turn = st.tuples(st.booleans(), said, st.booleans(), said)


@hypothesis.settings(max_examples=25)
@hypothesis.given(st.lists(turn, min_size=1, max_size=5))
def test_prefixes_stay_equal_in_any_conversation(drawn):
    conversation: list[BaseMessage] = []
    calls = []
    for has_context, question, has_tool, last in drawn:
        conversation.append(HumanMessage(f"<context>\n{LONG}\n</context>\n\n{question}" if has_context else question))
        if last:
            conversation.append(HumanMessage(last))
        calls.append(len(conversation))
        if has_tool:
            conversation += [AIMessage("", tool_calls=[{"name": "search", "args": {}, "id": "1"}])]
            conversation += [ToolMessage(LONG, tool_call_id="1")]
            calls.append(len(conversation))
        conversation.append(AIMessage("yes"))
    middleware = CompressionMiddleware(**MIDDLEWARE)
    whole = wire(middleware.shortened(conversation))
    for n in calls:
        assert wire(middleware.shortened(conversation[:n])) == whole[:n]


def test_parts_can_be_marked_and_marks_are_not_sent():
    marked = {"type": "text", "text": LONG, "ctxcomp": "context", "cache_control": {"type": "ephemeral"}}
    kept = {"type": "text", "text": CONTEXT, "ctxcomp": "keep"}
    asked = {"type": "text", "text": QUESTION}
    conversation = [HumanMessage([marked, asked]), AIMessage("George Eliot."), HumanMessage([kept])]
    first, _, second = CompressionMiddleware(**MIDDLEWARE).shortened(conversation)
    assert "George Eliot wrote Middlemarch." in first.content[0]["text"]
    assert len(first.content[0]["text"]) < len(LONG) / 3
    assert first.content[0].keys() == {"type", "text", "cache_control"}
    assert second.content == [{"type": "text", "text": CONTEXT}]
    (alone,) = CompressionMiddleware(**MIDDLEWARE).shortened([HumanMessage([kept])])
    assert alone.content == [{"type": "text", "text": CONTEXT}]
    assert kept["ctxcomp"] == "keep"


def test_parts_json_artifacts_and_commands():
    model = Recorder(calls=["parts"])
    agent = create_agent(model, TOOLS, middleware=[CompressionMiddleware(**MIDDLEWARE)])
    content = ask(agent, [HumanMessage(QUESTION)], "sync")[2].content
    assert "George Eliot" in content[0]["text"]
    assert len(content[0]["text"]) < len(LONG) / 3
    assert content[1] == {"type": "image", "url": "https://example.org/a.png"}

    agent = create_agent(Recorder(calls=["retrieve"]), TOOLS, middleware=[CompressionMiddleware(**MIDDLEWARE)])
    message = ask(agent, [HumanMessage(QUESTION)], "sync")[2]
    (found,) = json.loads(message.content)  # still JSON; the document without an answer is gone
    assert found["id"] == 7
    assert "George Eliot" in found["text"]
    assert message.artifact[0].page_content == LONG

    agent = create_agent(Recorder(calls=["command"]), TOOLS, middleware=[CompressionMiddleware(**MIDDLEWARE)])
    state = ask(agent, [HumanMessage(QUESTION)], "sync")
    assert "George Eliot" in state[2].content
    assert len(state[2].content) < len(LONG) / 3
    assert state[3].content == "by the way"


def test_the_query_of_a_tool_result_is_the_question_and_the_call():
    queries: list[str] = []
    middleware = CompressionMiddleware(**MIDDLEWARE)
    own = middleware.tool_query
    middleware.tool_query = lambda request: queries.append(own(request)) or queries[-1]
    ask(create_agent(Recorder(calls=["search"]), TOOLS, middleware=[middleware]), [HumanMessage(CONTEXT)], "sync")
    assert queries == [f"{QUESTION}\nauthor of Middlemarch"]
    rain = CompressionMiddleware(**MIDDLEWARE, tool_query=lambda request: "Where does rain fall?")
    state = ask(create_agent(Recorder(calls=["search"]), TOOLS, middleware=[rain]), [HumanMessage(QUESTION)], "sync")
    assert "Rain falls" in state[2].content


def test_what_stays_as_it_is():
    excluded = CompressionMiddleware(**MIDDLEWARE, exclude_tools=["search"])
    model = Recorder(calls=["search"])
    state = ask(create_agent(model, TOOLS, middleware=[excluded]), [HumanMessage(CONTEXT)], "sync")
    assert state[2].content == model.seen[1][-1].content == LONG
    strict = CompressionMiddleware(**MIDDLEWARE, min_characters=10**6)
    model = Recorder(calls=["search"])
    state = ask(create_agent(model, TOOLS, middleware=[strict]), [HumanMessage(CONTEXT)], "sync")
    assert state[2].content == LONG
    assert model.seen[0][0].content == CONTEXT
    error = ToolMessage(LONG, tool_call_id="x", status="error")
    assert CompressionMiddleware(**MIDDLEWARE)._result(error, "q") is error


def test_budgets_elision_and_originals():
    middleware = CompressionMiddleware(
        {"keep": 1}, tool_budget={"tokens": 15}, method="bm25", elision="[… left out]", keep_original=False
    )
    model = Recorder(calls=["search"])
    state = ask(create_agent(model, TOOLS, middleware=[middleware]), [HumanMessage(CONTEXT)], "sync")
    assert model.seen[0][0].content == CONTEXT
    assert "original" not in state[2].response_metadata["ctxcomp"]
    assert state[2].response_metadata["ctxcomp"]["stats"]["tokens_out"] <= 15


def test_the_run_shows_what_was_saved():
    class Events(BaseCallbackHandler):
        seen: list[Any]

        def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
            self.seen.append((name, data["method"], data["tokens_out"]))

    events = Events()
    events.seen = []
    agent = create_agent(Recorder(calls=["search"]), TOOLS, middleware=[CompressionMiddleware(**MIDDLEWARE)])
    for mode in ("sync", "async"):
        ask(agent, [HumanMessage(CONTEXT)], mode, config={"callbacks": [events]})
    assert [(name, method) for name, method, _ in events.seen] == [("ctxcomp", "bm25")] * 4
    assert all(0 < tokens <= 40 for *_, tokens in events.seen)


def test_wrong_settings_are_refused_at_once():
    with pytest.raises(UnknownMethodError, match="bm25"):
        CompressionMiddleware({"tokens": 5}, method="bm52")
    with pytest.raises(InputError, match="exclude_tools"):
        CompressionMiddleware({"tokens": 5}, method="bm25", exclude_tools="search")
    with pytest.raises(InputError, match="a budget is"):
        CompressionMiddleware(400)  # type: ignore[arg-type]


def test_without_langchain_the_error_says_what_to_install(error_without):
    said = error_without("langchain", "ctxcomp.integrations.langchain.agents")
    assert "pip install 'ctxcomp[langchain-agents]'" in said
