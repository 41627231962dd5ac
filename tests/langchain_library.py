"""Three documents about novels and bees in LangChain's own vector store, and what is promised of compressed ones."""

from __future__ import annotations

import json

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from ctxcomp import resolve_counter

QUESTION = "Who wrote Middlemarch?"
TEXTS = [
    "Middlemarch is a novel. It was written by George Eliot. It is set in the Midlands. It has eight books.",
    "Bees make honey. A hive holds thousands of them. They dance to show the way.",
    "New Grub Street was written by George Gissing. It appeared in 1891. Its subject is literary London.",
]


class Letters(Embeddings):
    """Counts of letters: a real vector store needs vectors, and these need no model."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[1.0 + text.lower().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def library() -> list[Document]:
    return [
        Document(page_content=text, id=f"doc-{i}", metadata={"file": f"{i}.txt", "empty": None, "score": 1.0 - i / 10})
        for i, text in enumerate(TEXTS)
    ]


def library_store() -> InMemoryVectorStore:
    store = InMemoryVectorStore(Letters())
    store.add_documents(library())
    return store


def check(compressed: list[Document], sources: list[Document], tokens: int | None = None) -> None:
    """What is promised of every document: id, metadata, spans that slice back, JSON, and the budget of all."""
    by_id = {source.id: source for source in sources}
    for document in compressed:
        source = by_id[document.id]
        record = document.metadata["ctxcomp"]
        assert json.loads(json.dumps(record)) == record
        assert {k: v for k, v in document.metadata.items() if k != "ctxcomp"} == source.metadata
        at = 0
        for span in record["spans"]:
            kept = source.page_content[span["start"] : span["end"]]
            at = document.page_content.index(kept, at) + len(kept)
        pieces = [source.page_content[s["start"] : s["end"]] for s in record["spans"]]
        assert "".join("".join(pieces).split()) == "".join(document.page_content.split())
    if tokens is not None:
        count = resolve_counter().count("\n\n".join(document.page_content for document in compressed))
        assert count <= tokens
        assert all(document.metadata["ctxcomp"]["stats"]["tokens_out"] == count for document in compressed)
