"""The retriever over an index, under LangChain's published test suite and in a chain."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("langchain_tests")
pytest.importorskip("faiss")

import numpy as np
from langchain_core.documents import Document
from langchain_core.runnables import RunnablePassthrough
from langchain_library import QUESTION, TEXTS, Letters
from langchain_tests.integration_tests import RetrieversIntegrationTests
from pydantic import ValidationError

from ctxcomp import InputError, Passage
from ctxcomp.index import Index
from ctxcomp.integrations.langchain import CompressContext, CompressedRetriever, IndexRetriever

PASSAGES = [Passage(text, id=f"doc-{i}", title=f"T{i}", metadata={"page": i}) for i, text in enumerate(TEXTS * 2)]


@pytest.fixture(scope="module")
def index() -> Index:
    return Index.build(PASSAGES)


pytest.mark.asyncio(RetrieversIntegrationTests.test_ainvoke_returns_documents)  # the suite expects asyncio_mode=auto


class TestIndexRetriever(RetrieversIntegrationTests):
    """LangChain's published suite, as it is."""

    @property
    def retriever_constructor(self) -> type[IndexRetriever]:
        return IndexRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"index": Index.build(PASSAGES)}

    @property
    def retriever_query_example(self) -> str:
        return QUESTION


def test_documents_carry_id_metadata_title_and_score(index):
    found = IndexRetriever(index=index, k=2).invoke(QUESTION)
    assert [d.id for d in found] == ["doc-0", "doc-3"]
    assert found[0].page_content == TEXTS[0]
    assert found[0].metadata == {"title": "T0", "page": 0, "score": found[0].metadata["score"]}
    assert json.dumps(found[0].metadata)
    assert found[0].metadata["score"] >= found[1].metadata["score"]
    assert len(IndexRetriever(index=index, k=2).invoke(QUESTION, k=5)) == 5
    with pytest.raises(InputError, match="k must be"):
        IndexRetriever(index=index).invoke(QUESTION, k=0)


@pytest.mark.asyncio
async def test_asynchronous_searches_find_the_same(index):
    retriever = IndexRetriever(index=index, k=3)
    assert await retriever.ainvoke(QUESTION) == retriever.invoke(QUESTION)
    assert await retriever.abatch([QUESTION, "bees"]) == retriever.batch([QUESTION, "bees"])


def test_a_saved_index_is_read_once(index, tmp_path):
    index.save(tmp_path)
    retriever = IndexRetriever(index=tmp_path, k=1)
    next(tmp_path.glob("data-*/codes.faiss")).unlink()
    assert retriever.invoke(QUESTION)[0].id == "doc-0"
    with pytest.raises(ValidationError, match="damaged"):
        IndexRetriever(index=tmp_path)


def test_vectors_of_ones_own_need_a_function():
    letters = Letters()
    own = Index.build(
        PASSAGES, vectors=np.array(letters.embed_documents([p.text for p in PASSAGES])), vectors_of="letters"
    )
    retriever = IndexRetriever(index=own, embed_query=letters.embed_query, k=1)
    assert retriever.invoke(TEXTS[1])[0].page_content == TEXTS[1]
    with pytest.raises(ValidationError, match="embed_query"):
        IndexRetriever(index=own)
    with pytest.raises(ValidationError):
        IndexRetriever(index=own, embed_query=letters.embed_query, k=0)


def test_it_stands_before_compression(index):
    retriever = IndexRetriever(index=index, k=4)
    chain = {"context": retriever, "question": RunnablePassthrough()} | CompressContext(budget={"tokens": 12})
    assert "George Eliot" in str(chain.invoke(QUESTION)["context"])
    compressed = CompressedRetriever(retriever=retriever, budget={"tokens": 12}).invoke(QUESTION)
    assert compressed[0].metadata["ctxcomp"]["score"] > 0
    assert isinstance(compressed[0], Document)
