"""Our retriever under LangChain's published test suite, and around its vector store."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("langchain_tests")

from langchain_core.documents import Document
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnablePassthrough
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_library import QUESTION, TEXTS, Letters, check, library, library_store
from langchain_tests.integration_tests import RetrieversIntegrationTests
from pydantic import ValidationError

from ctxcomp import InputError
from ctxcomp.integrations.langchain import CompressedRetriever


@pytest.fixture
def documents() -> list[Document]:
    return library()


@pytest.fixture
def store() -> InMemoryVectorStore:
    return library_store()


pytest.mark.asyncio(RetrieversIntegrationTests.test_ainvoke_returns_documents)  # the suite expects asyncio_mode=auto


class TestCompressedRetriever(RetrieversIntegrationTests):
    """LangChain's published suite, as it is."""

    @property
    def retriever_constructor(self) -> type[CompressedRetriever]:
        return CompressedRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        store = InMemoryVectorStore(Letters())
        store.add_texts(TEXTS * 2)
        return {"retriever": store.as_retriever(), "budget": {"tokens": 12}, "method": "bm25"}

    @property
    def retriever_query_example(self) -> str:
        return QUESTION


def test_k_documents_are_k_documents(store, documents):
    retriever = CompressedRetriever(retriever=store.as_retriever(), budget={"tokens": 9}, method="bm25", k=3)
    found = retriever.invoke(QUESTION)
    assert len(found) == 3
    assert any(not document.page_content for document in found)
    check(found, documents)
    assert len(retriever.invoke(QUESTION, k=1, budget={"keep": 1})) == 1
    every = CompressedRetriever(retriever=store.as_retriever(), budget={"tokens": 9}, method="bm25").invoke(QUESTION)
    assert all(document.page_content for document in every)
    with pytest.raises(InputError, match="k must be"):
        retriever.invoke(QUESTION, k=0)
    with pytest.raises(ValidationError):
        CompressedRetriever(retriever=store.as_retriever(), budget={"tokens": 9}, k=0)
    assert len(store.as_retriever(search_kwargs={"k": 1}).invoke(QUESTION)) == 1
    assert (
        len(
            CompressedRetriever(
                retriever=store.as_retriever(search_kwargs={"k": 1}), budget={"keep": 1}, method="bm25", k=2
            ).invoke(QUESTION)
        )
        == 2
    )  # the inner retriever is asked for two


def test_any_runnable_can_be_the_retriever(documents):
    search = RunnableLambda(lambda query: documents)
    retriever = CompressedRetriever(retriever=search, budget={"tokens": 20}, method="bm25", k=2)
    tracer = RunCollectorCallbackHandler()
    assert [d.id for d in retriever.invoke(QUESTION, {"callbacks": [tracer]})] == ["doc-0", "doc-1"]
    assert [child.name for child in tracer.traced_runs[0].child_runs] == ["RunnableLambda", "CompressContext"]


def test_the_budget_of_a_retriever_is_configurable(store):
    retriever = CompressedRetriever(retriever=store.as_retriever(), budget={"keep": 1}, method="bm25")
    few: Any = {"configurable": {"budget": {"tokens": 8}, "ctxcomp_budget": {"tokens": 8}}}
    configurable = retriever.configurable_fields(budget=ConfigurableField(id="budget"))
    assert configurable.invoke(QUESTION, few)[0].metadata["ctxcomp"]["stats"]["tokens_out"] <= 8
    assert retriever.invoke(QUESTION, budget={"tokens": 8})[0].metadata["ctxcomp"]["stats"]["tokens_out"] <= 8
    in_a_chain = RunnablePassthrough() | retriever
    assert in_a_chain.invoke(QUESTION, few)[0].metadata["ctxcomp"]["stats"]["tokens_out"] <= 8
