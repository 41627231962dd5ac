"""LangChain's own retrievers and pipelines around our document compressor."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from typing import Any

import hypothesis
import pytest

pytest.importorskip("langchain_classic")
pytest.importorskip("langchain_text_splitters")

from hypothesis import strategies as st
from langchain_classic.retrievers.contextual_compression import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
from langchain_core.documents import Document
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_library import QUESTION, Letters, check, library, library_store
from langchain_text_splitters import CharacterTextSplitter
from pydantic import ValidationError

from ctxcomp import Budget, BudgetError, InputError, load, resolve_counter
from ctxcomp.integrations.langchain import CompressContext, CompressedRetriever, CtxcompDocumentCompressor


@pytest.fixture
def documents() -> list[Document]:
    return library()


@pytest.fixture
def store() -> InMemoryVectorStore:
    return library_store()


def compressor(**fields: Any) -> CtxcompDocumentCompressor:
    return CtxcompDocumentCompressor(**{"budget": {"tokens": 20}, "method": "bm25", **fields})


def test_documents_keep_id_and_metadata_and_are_not_changed(documents):
    before = copy.deepcopy(documents)
    compressed = compressor().compress_documents(documents, QUESTION)
    assert documents == before
    assert [d.id for d in compressed] == ["doc-0"]
    check(compressed, documents, tokens=20)
    assert compressed[0].metadata["ctxcomp"]["score"] == max(
        span["score"] for span in compressed[0].metadata["ctxcomp"]["spans"]
    )


def test_dropped_documents_can_stay_in_place(documents):
    compressed = compressor(drop_empty=False).compress_documents(documents, QUESTION)
    assert [d.id for d in compressed] == ["doc-0", "doc-1", "doc-2"]
    assert compressed[1].page_content == ""
    assert compressed[1].metadata["ctxcomp"]["spans"] == []
    assert compressed[1].metadata["ctxcomp"]["score"] is None


def test_the_default_method_finds_the_answer(documents):
    compressed = CtxcompDocumentCompressor(budget=Budget(tokens=10)).compress_documents(documents, QUESTION)
    assert "George Eliot" in compressed[0].page_content
    check(compressed, documents, tokens=10)


@pytest.mark.asyncio
async def test_async_equals_sync(documents):
    found = await compressor().acompress_documents(documents, QUESTION)
    same = compressor().compress_documents(documents, QUESTION)
    assert [d.page_content for d in found] == [d.page_content for d in same]


def test_inside_contextual_compression_retriever(store, documents):
    retriever = ContextualCompressionRetriever(base_compressor=compressor(), base_retriever=store.as_retriever())
    collected = RunCollectorCallbackHandler()
    compressed = retriever.invoke(QUESTION, {"callbacks": [collected]})
    check(compressed, documents, tokens=20)
    run = collected.traced_runs[0]
    assert run.child_runs[-1].name == "CompressContext"
    assert run.child_runs[-1].extra["metadata"]["ctxcomp_tokens_out"] <= 20


@pytest.mark.asyncio
async def test_inside_contextual_compression_retriever_async(store, documents):
    retriever = ContextualCompressionRetriever(base_compressor=compressor(), base_retriever=store.as_retriever())
    check(await retriever.ainvoke(QUESTION), documents, tokens=20)


def test_an_empty_store_gives_no_documents():
    empty = InMemoryVectorStore(Letters()).as_retriever()
    assert ContextualCompressionRetriever(base_compressor=compressor(), base_retriever=empty).invoke("x") == []
    assert CompressedRetriever(retriever=empty, budget={"keep": 0.5}, method="bm25", k=2).invoke("x") == []


@pytest.mark.asyncio
async def test_inside_document_compressor_pipeline(documents):
    splitter = CharacterTextSplitter(separator=". ", chunk_size=60, chunk_overlap=0)
    pipeline = DocumentCompressorPipeline(transformers=[splitter, compressor(), compressor(budget={"tokens": 9})])
    compressed = pipeline.compress_documents(documents, QUESTION)
    assert [d.page_content for d in compressed] == [
        d.page_content for d in await pipeline.acompress_documents(documents, QUESTION)
    ]
    assert compressed
    for document in compressed:
        assert document.metadata["ctxcomp"]["stats"]["tokens_out"] <= 9
        assert document.metadata["ctxcomp"]["before"]["stats"]["tokens_out"] <= 20


# What is given on purpose to break it


@pytest.mark.parametrize("budget", [{"tokens": 0}, {"tokens": 7}, {"keep": 0.3}, {"keep": 1}])
@pytest.mark.parametrize(
    "texts",
    [[], [""], ["", " ", "a"], ["\ud800 lone", "\x00"], ["東京は日本の首都です。人口は多い。", "Привет, мир. Снова."]],
)
def test_any_text_any_budget(texts, budget):
    given = [Document(page_content=text, metadata={None: None, 3: {"x": {1}}}) for text in texts]
    for query in ("", "首都 мир?"):
        tokens = budget.get("tokens")
        compressed = compressor(budget=budget).compress_documents(given, query)
        assert all(document.page_content for document in compressed)
        if tokens is not None:
            assert resolve_counter().count("\n\n".join(d.page_content for d in compressed)) <= tokens
        assert len(compressor(budget=budget, drop_empty=False).compress_documents(given, query)) == len(texts)


@hypothesis.settings(max_examples=40)
@hypothesis.given(st.lists(st.text(max_size=200), max_size=5), st.text(max_size=30), st.integers(0, 60))
def test_budget_ids_and_spans_hold_for_any_documents(texts, query, tokens):
    sources = [Document(page_content=text, id=i, metadata={"n": i}) for i, text in enumerate(texts)]
    compressed = compressor(budget={"tokens": tokens}).compress_documents(sources, query)
    check(compressed, sources, tokens)
    assert [int(d.id) for d in compressed] == sorted(int(d.id) for d in compressed)


def test_huge_documents():
    huge = [
        Document(page_content="One sentence of many stands here. " * 20_000, id=1),
        Document(page_content="x" * 10**5),
    ]
    compressed = compressor(budget={"tokens": 100}).compress_documents(huge, "sentence")
    assert compressed[0].id == "1"
    assert compressed[0].metadata["ctxcomp"]["stats"]["tokens_out"] <= 100


def test_scores_and_titles_are_read_from_metadata():
    strange = ["high", True, None, float("nan"), float("inf"), 10**400, 2, 0.5]
    given = [
        Document(page_content=f"Text {i}.", metadata={"rank": score, "name": i}) for i, score in enumerate(strange)
    ]
    given.append(Document(page_content="Last.", metadata={"rank": 3.0, "name": "The title"}))
    mine = compressor(
        method="truncate", options={"by_passage_score": True}, score_key="rank", title_key="name", budget={"tokens": 3}
    )
    assert [d.page_content for d in mine.compress_documents(given, "")] == ["Last."]
    titled = CompressContext(
        budget={"tokens": 50}, method="bm25", options={"header": "# {title}\n"}, score_key=None, title_key="name"
    )
    assert titled.invoke({"question": "", "context": given[-1:]})["context"] == "# The title\nLast."


def test_metadata_key_can_be_renamed_or_left_out(documents):
    assert "ours" in compressor(metadata_key="ours").compress_documents(documents, QUESTION)[0].metadata
    plain = compressor(metadata_key=None).compress_documents(documents, QUESTION)
    assert plain[0].metadata == documents[0].metadata
    assert plain[0].metadata is not documents[0].metadata


def test_subclasses_of_document_stay_what_they_are():
    class Page(Document):
        number: int

    page = Page(page_content="Bees make honey. Rain falls.", number=7, id="p")
    (left,) = compressor(budget={"tokens": 5}).compress_documents([page], "honey")
    assert isinstance(left, Page)
    assert (left.number, left.id, left.page_content) == (7, "p", "Bees make honey.")


@pytest.mark.parametrize("wrong", [None, 7, b"bytes", {"a": 1}, [1], [None], [["nested"]]])
def test_wrong_documents_are_refused(wrong):
    with pytest.raises(InputError, match="Document"):
        CompressContext(budget={"tokens": 5}, method="bm25").invoke({"question": "", "context": wrong})


def test_wrong_settings_are_refused_at_once():
    with pytest.raises(ValidationError, match="did you mean 'bm25'"):
        compressor(method="bm52")
    with pytest.raises(ValidationError, match="no field"):
        compressor(options={"untit": "word"})
    with pytest.raises(ValidationError, match="set them on the compressor"):
        compressor(method=load("bm25"), options={"unit": "word"})
    for budget in ({}, {"tokens": 1, "keep": 0.5}, {"tokens": -1}, {"token": 4}, 400, None):
        with pytest.raises(ValidationError, match="budget"):
            compressor(budget=budget)
    with pytest.raises(ValidationError, match="budget"):
        CtxcompDocumentCompressor()
    with pytest.raises(ValidationError):
        compressor(metod="bm25")
    with pytest.raises(InputError, match="question must be a str"):
        compressor().compress_documents([], 7)  # type: ignore[arg-type]


def test_a_ready_compressor_and_a_budget_error(documents):
    ready = load("bm25", protect=("digits",))
    mine = compressor(method=ready, budget={"tokens": 2})
    with pytest.raises(BudgetError, match="protected text alone"):
        mine.compress_documents(documents, QUESTION)


# The example and imports


def test_the_example_runs_offline(root):
    path = root / "examples" / "langchain_chain.py"
    done = subprocess.run([sys.executable, str(path)], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = re.search(r"context (\d+) -> (\d+) tokens", done.stdout).groups()
    assert int(after) <= 120 < int(before)
    assert "budget" in done.stdout
    assert len(path.read_text(encoding="utf-8").splitlines()) < 50


@pytest.mark.parametrize("module", ["langchain", "langchain.runnable", "langchain.agents"])
def test_without_langchain_the_error_says_what_to_install(error_without, module):
    said = error_without("langchain_core", f"ctxcomp.integrations.{module}")
    assert "pip install 'ctxcomp[langchain]'" in said
