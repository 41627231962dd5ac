"""Our runnable in LangChain's own chains: batches, streams, configuration, and what tracers are shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("langchain_core")

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models import FakeListLLM, GenericFakeChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnableParallel, RunnablePassthrough
from langchain_core.tracers.base import AsyncBaseTracer
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_library import QUESTION, TEXTS, check, library, library_store

from ctxcomp import Budget, BudgetError, InputError, load, resolve_counter
from ctxcomp.integrations.langchain import CompressContext


@pytest.fixture
def documents() -> list[Document]:
    return library()


@pytest.fixture
def store() -> InMemoryVectorStore:
    return library_store()


def chain_parts() -> tuple[CompressContext, PromptTemplate]:
    compress = CompressContext(budget=Budget(tokens=20), method="bm25")
    return compress, PromptTemplate.from_template("{context}\n\nQuestion: {question}")


def test_a_chain_of_compress_prompt_and_model(store, documents):
    compress, prompt = chain_parts()
    seen: list[str] = []
    listen = RunnableLambda(lambda value: seen.append(value.to_string()) or value)
    chain = (
        {"context": store.as_retriever(), "question": RunnablePassthrough()}
        | compress
        | prompt
        | listen
        | FakeListLLM(responses=["George Eliot"])
        | StrOutputParser()
    )
    assert chain.invoke(QUESTION) == "George Eliot"
    context, _, question = seen[0].rpartition("\n\nQuestion: ")
    assert question == QUESTION
    assert "It was written by George Eliot." in context
    assert resolve_counter().count(context) <= 20
    assert not any(mark in context for mark in ("<", "ref", "doc-0", "page_content"))


def test_the_rest_of_the_input_is_handed_on(documents):
    compress, _ = chain_parts()
    given = {"question": QUESTION, "context": documents, "language": "en", 5: object()}
    before = dict(given)
    result = compress.invoke(given)
    assert given == before
    assert {k: v for k, v in result.items() if k not in ("context", "ctxcomp")} == {
        k: v for k, v in given.items() if k != "context"
    }
    record = result["ctxcomp"]
    assert json.loads(json.dumps(record)) == record
    assert record["stats"]["tokens_out"] == resolve_counter().count(result["context"])
    for span in record["spans"]:
        assert documents[span["passage"]].page_content[span["start"] : span["end"]] in result["context"]


def test_keys_outputs_and_plain_documents(documents):
    compress = CompressContext(
        budget={"tokens": 20}, method="bm25", question_key="input", documents_key="docs", output="documents"
    )
    result = compress.invoke({"input": QUESTION, "docs": documents})
    check(result["docs"], documents, tokens=20)
    bound = compress.bind(query=QUESTION).invoke(documents)
    assert [d.page_content for d in bound] == [d.page_content for d in result["docs"]]
    text = CompressContext(budget={"tokens": 20}, method="bm25").invoke(TEXTS, query=QUESTION)
    assert text == "\n\n".join(d.page_content for d in result["docs"])
    assert "Eliot" in CompressContext(budget={"tokens": 9}, method="bm25").invoke(TEXTS[0], query="George Eliot")
    with pytest.raises(InputError, match="bind"):
        compress.invoke(documents)
    with pytest.raises(InputError, match="no 'docs', it has 'input', 'context'"):
        compress.invoke({"input": QUESTION, "context": documents})
    with pytest.raises(InputError, match="question must be a str"):
        compress.invoke({"input": ["x"], "docs": documents})


class Counting(type(load("bm25"))):  # type: ignore[misc]
    """BM25 that notes how many requests came at once."""

    def compress_batch(self, requests: Any) -> Any:
        CALLS.append(len(requests))
        return super().compress_batch(requests)


CALLS: list[int] = []


@pytest.mark.asyncio
async def test_batches_are_compressed_in_one_go(documents):
    compress = CompressContext(budget={"tokens": 20}, method=Counting())
    _, prompt = chain_parts()
    inputs = [{"question": f"{QUESTION} {i}", "context": documents[i % 3 :]} for i in range(5)]
    chain = compress | prompt | FakeListLLM(responses=["yes"])
    singles = [compress.invoke(one)["context"] for one in inputs]
    CALLS.clear()
    assert [one["context"] for one in compress.batch(inputs)] == singles
    assert [one["context"] for one in await compress.abatch(inputs)] == singles
    assert chain.batch(inputs) == await chain.abatch(inputs) == ["yes"] * 5
    assert CALLS == [5, 5, 5, 5]
    assert compress.batch([]) == await compress.abatch([]) == []


@pytest.mark.asyncio
async def test_one_bad_input_of_a_batch_fails_alone(documents):
    compress = CompressContext(budget={"tokens": 8}, method="bm25", options={"protect": ("digits",)})
    good = {"question": "honey", "context": documents[1:2]}
    inputs = [good, {"question": "honey"}, {"question": "year", "context": ["The year 1891. " * 9]}, good]
    for outputs in (
        compress.batch(inputs, return_exceptions=True),
        await compress.abatch(inputs, return_exceptions=True),
    ):
        assert [type(one) for one in outputs] == [dict, InputError, BudgetError, dict]
        assert outputs[0]["context"] == outputs[3]["context"] == "Bees make honey."
    with pytest.raises(InputError, match="no 'context'"):
        compress.batch(inputs)
    with pytest.raises(InputError, match="no 'context'"):
        await compress.abatch(inputs)


@pytest.mark.asyncio
async def test_streams_pass_through(documents):
    compress, _ = chain_parts()
    prompt = ChatPromptTemplate.from_template("{context}\n{question}")

    def chain() -> Any:
        return compress | prompt | GenericFakeChatModel(messages=iter(["George Eliot wrote it"])) | StrOutputParser()

    given = {"question": QUESTION, "context": documents}
    tokens = list(chain().stream(given))
    assert len(tokens) > 3
    assert "".join(tokens) == "George Eliot wrote it"
    assert [token async for token in chain().astream(given)] == tokens
    parallel = RunnableParallel(question=RunnablePassthrough(), context=RunnableLambda(lambda _: documents)) | compress
    (streamed,) = parallel.stream(QUESTION)
    assert streamed["context"] == compress.invoke(given)["context"]


@pytest.mark.asyncio
async def test_the_budget_of_a_call_is_configurable(documents):
    compress, prompt = chain_parts()
    given = {"question": QUESTION, "context": documents}
    few: dict[str, Any] = {"configurable": {"ctxcomp_budget": {"tokens": 8}}}
    assert compress.invoke(given, few)["ctxcomp"]["stats"]["tokens_out"] <= 8
    assert (await compress.ainvoke(given, few))["ctxcomp"]["stats"]["tokens_out"] <= 8
    assert compress.with_config(few).invoke(given)["ctxcomp"]["stats"]["tokens_out"] <= 8
    mixed = compress.batch([given, given], [few, {"configurable": {"ctxcomp_budget": Budget(keep=1)}}])
    assert [one["ctxcomp"]["stats"]["tokens_out"] <= 8 for one in mixed] == [True, False]
    assert mixed[1]["ctxcomp"]["stats"]["keep"] == 1
    with pytest.raises(BudgetError, match="a budget is"):
        compress.invoke(given, {"configurable": {"ctxcomp_budget": 8}})
    assert "ctxcomp_budget" in [spec.id for spec in (compress | prompt).config_specs]
    assert "ctxcomp_budget" in json.dumps((compress | prompt).get_config_jsonschema())


def test_configurable_fields_work_too(documents):
    compress, _ = chain_parts()
    wrapped = compress.configurable_fields(budget=ConfigurableField(id="budget"), method=ConfigurableField(id="method"))
    given = {"question": QUESTION, "context": documents}
    assert wrapped.invoke(given)["ctxcomp"]["stats"]["method"] == "bm25"
    other = wrapped.invoke(given, {"configurable": {"budget": {"keep": 0.2}, "method": "truncate"}})
    assert other["ctxcomp"]["stats"]["method"] == "truncate"
    assert other["ctxcomp"]["stats"]["keep"] <= 0.2


# Tracing

FACTS = {
    "ctxcomp_method",
    "ctxcomp_tokens_in",
    "ctxcomp_tokens_out",
    "ctxcomp_keep",
    "ctxcomp_seconds",
    "ctxcomp_counter",
}


class Events(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        self.seen.append((name, data))


class AsyncEvents(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    async def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        self.seen.append((name, data))


class AsyncTracer(AsyncBaseTracer):
    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Any] = []

    async def _persist_run(self, run: Any) -> None:
        self.roots.append(run)


def test_runs_show_what_was_saved(documents):
    compress, prompt = chain_parts()
    tracer, events = RunCollectorCallbackHandler(), Events()
    given = {"question": QUESTION, "context": documents}
    chain = compress | prompt
    chain.invoke(given, {"callbacks": [tracer, events]})
    (run,) = [child for child in tracer.traced_runs[0].child_runs if child.name == "CompressContext"]
    metadata = run.extra["metadata"]
    assert metadata.keys() >= FACTS
    assert (metadata["ctxcomp_method"], metadata["ctxcomp_tokens_out"]) == (
        "bm25",
        run.outputs["ctxcomp"]["stats"]["tokens_out"],
    )
    assert 0 < metadata["ctxcomp_keep"] < 1
    (name, data) = events.seen[0]
    assert (name, data["tokens_in"]) == ("ctxcomp", metadata["ctxcomp_tokens_in"])
    compress.batch([given] * 3, {"callbacks": [tracer, events]})
    assert len(events.seen) == 4
    assert all(run.extra["metadata"].keys() >= FACTS for run in tracer.traced_runs[1:])
    assert "George Eliot" not in json.dumps(events.seen)


@pytest.mark.asyncio
async def test_runs_show_what_was_saved_async(documents):
    compress, _ = chain_parts()
    tracer, events = AsyncTracer(), AsyncEvents()
    given = {"question": QUESTION, "context": documents}
    await compress.ainvoke(given, {"callbacks": [tracer, events]})
    await compress.abatch([given] * 2, {"callbacks": [tracer, events]})
    assert len(events.seen) == len(tracer.roots) == 3
    assert all(run.extra["metadata"].keys() >= FACTS for run in tracer.roots)
    kinds = [event["event"] async for event in compress.astream_events(given, version="v2")]
    assert "on_custom_event" in kinds


def test_a_failed_run_is_a_failed_run():
    compress, _ = chain_parts()
    tracer = RunCollectorCallbackHandler()
    with pytest.raises(InputError):
        compress.invoke({"question": QUESTION}, {"callbacks": [tracer]})
    assert "InputError" in tracer.traced_runs[0].error
