"""The component in real Haystack pipelines: retriever, compressor, prompt builder; run, saved and loaded again."""

from __future__ import annotations

import asyncio
import copy
import json
import os
from typing import Any

import pytest

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
pytest.importorskip("haystack")

from haystack import Document, Pipeline
from haystack.components.builders import PromptBuilder
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.core.errors import PipelineConnectError
from haystack.dataclasses import ByteStream
from haystack.document_stores.in_memory import InMemoryDocumentStore

from ctxcomp import Budget, BudgetError, InputError, UnknownMethodError, load, resolve_counter
from ctxcomp.integrations.haystack import CtxcompDocumentCompressor

QUESTION = "Who wrote Middlemarch?"
TEXTS = [
    "Middlemarch is a novel. George Eliot wrote Middlemarch. It is set in the Midlands. It has eight books.",
    "Bees make honey. A hive holds thousands of them. They dance to show the way.",
    "George Gissing wrote New Grub Street. It appeared in 1891. Its subject is literary London.",
]
TEMPLATE = "{% for d in documents %}{{ d.content }}\n{% endfor %}Question: {{ query }}"


@pytest.fixture
def documents() -> list[Document]:
    return [
        Document(content=text, id=f"doc-{i}", meta={"file": f"{i}.txt", "nothing": None}, score=1.0 - i / 10)
        for i, text in enumerate(TEXTS)
    ]


def compressor(**fields: Any) -> CtxcompDocumentCompressor:
    return CtxcompDocumentCompressor(**{"budget": {"tokens": 14}, "method": "bm25", **fields})


def pipeline(documents: list[Document]) -> Pipeline:
    store = InMemoryDocumentStore()
    store.write_documents(documents)
    made = Pipeline()
    made.add_component("retriever", InMemoryBM25Retriever(store, top_k=3))
    made.add_component("compressor", compressor())
    made.add_component("prompt", PromptBuilder(TEMPLATE, required_variables="*"))
    made.connect("retriever.documents", "compressor.documents")
    made.connect("compressor.documents", "prompt.documents")
    return made


def inputs(**of_compressor: Any) -> dict[str, Any]:
    return {
        "retriever": {"query": QUESTION},
        "compressor": {"query": QUESTION, **of_compressor},
        "prompt": {"query": QUESTION},
    }


def test_documents_keep_everything_but_their_text(documents):
    before = copy.deepcopy(documents)
    outputs = compressor().run(QUESTION, documents)
    assert documents == before
    (document,) = outputs["documents"]
    assert (document.id, document.score) == ("doc-0", 1.0)
    record = document.meta.pop("ctxcomp")
    assert document.meta == documents[0].meta
    assert json.loads(json.dumps(record)) == record
    assert "George Eliot wrote Middlemarch." in [TEXTS[0][s["start"] : s["end"]] for s in record["spans"]]
    assert resolve_counter().count(document.content) == outputs["stats"]["tokens_out"] <= 14


def test_in_a_pipeline(documents):
    outputs = pipeline(documents).run(inputs(), include_outputs_from={"compressor"})
    prompt = outputs["prompt"]["prompt"]
    assert "George Eliot wrote Middlemarch." in prompt
    assert "1891" not in prompt
    assert "ctxcomp" not in prompt
    assert outputs["compressor"]["stats"]["tokens_out"] <= 14
    wide = pipeline(documents).run(inputs(budget={"keep": 1.0}))["prompt"]["prompt"]
    assert "1891" in wide
    same = asyncio.run(pipeline(documents).run_async(inputs()))["prompt"]["prompt"]
    assert same == prompt


def test_a_pipeline_can_be_saved_and_loaded(documents):
    made = pipeline(documents)
    again = Pipeline.loads(made.dumps(), allowed_modules=["ctxcomp.integrations.haystack"])
    loaded = again.get_component("compressor")
    assert (loaded.budget, loaded.method) == (Budget(tokens=14), "bm25")
    mine = compressor(budget=Budget(keep=0.5), options={"unit": "word"}, metadata_key=None, drop_empty=False)
    assert CtxcompDocumentCompressor.from_dict(mine.to_dict()).to_dict() == mine.to_dict()
    assert json.loads(json.dumps(mine.to_dict()))["init_parameters"]["budget"] == {"keep": 0.5}
    with pytest.raises(InputError, match="pipeline file"):
        compressor(method=load("bm25")).to_dict()


def test_the_default_method_and_warm_up(documents):
    mine = CtxcompDocumentCompressor({"tokens": 10})
    mine.warm_up()
    assert "George Eliot" in mine.run(QUESTION, documents)["documents"][0].content


def test_blobs_are_handed_on():
    picture = ByteStream(data=b"png", mime_type="image/png")
    given = [Document(blob=picture), Document(content="Rain falls. Snow falls.", blob=picture), Document(content="")]
    left = compressor(budget={"tokens": 0}).run("x", given)["documents"]
    assert left[0] is given[0]
    assert [(one.content, one.blob) for one in left[1:]] == [("", picture)]


def test_dropped_documents_can_stay_in_place(documents):
    left = compressor(drop_empty=False).run(QUESTION, documents)["documents"]
    assert [bool(one.content) for one in left] == [True, False, False]
    assert left[1].id == "doc-1"


@pytest.mark.parametrize("texts", [[], [""], [" "], ["東京は日本の首都です。人口は多い。"], ["\x00", "x" * 200_000]])
@pytest.mark.parametrize("budget", [{"tokens": 0}, {"tokens": 5}, {"keep": 0.5}])
def test_any_text_any_budget(texts, budget):
    outputs = compressor(budget=budget).run("", [Document(content=text, meta={"title": 7}) for text in texts])
    if "tokens" in budget:
        count = resolve_counter().count("\n\n".join(one.content for one in outputs["documents"]))
        assert count == outputs["stats"]["tokens_out"] <= budget["tokens"]


def test_wrong_use_is_refused(documents):
    with pytest.raises(UnknownMethodError, match="did you mean 'bm25'"):
        compressor(method="bm52")
    with pytest.raises(BudgetError, match="a budget is"):
        compressor(budget=400)
    with pytest.raises(BudgetError, match="a budget is"):
        compressor().run(QUESTION, documents, budget={"token": 4})
    with pytest.raises(InputError, match="query must be a str"):
        compressor().run(None, documents)
    made = pipeline(documents)
    with pytest.raises(PipelineConnectError):
        made.connect("prompt.prompt", "compressor.documents")


def test_without_haystack_the_error_says_what_to_install(error_without):
    assert "pip install 'ctxcomp[haystack]'" in error_without("haystack", "ctxcomp.integrations.haystack")
