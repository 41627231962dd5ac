"""`compress_context` around every kind of function, and around the real openai client talking to a real server."""

from __future__ import annotations

import asyncio
import functools
import inspect
import subprocess
import sys
import threading

import pytest
from prompt_cases import BEES, GLASS, RIVER, Q

from ctxcomp import Budget, BudgetError, CompressedText, InputError, Passage, compress_context, load

BM25 = load("bm25", counter="minilm")
DOCS = [RIVER, GLASS, BEES]
PROMPT = f"Sources:\n[1] {RIVER}\n\n[2] {GLASS}\n\n[3] {BEES}\n\nQuestion: {Q}"
short = functools.partial(compress_context, tokens=30, compressor=BM25)


def shortened(docs):
    return BM25.compress(Q, [Passage(doc) for doc in docs], Budget(tokens=30)).passage_texts


def test_a_plain_function():
    seen: list[CompressedText] = []

    @short(context="docs", on_compressed=seen.append)
    def ask(question: str, docs: list[str], *, loud: bool = False) -> tuple[str, list[str], bool]:
        """Ask it."""
        return question, docs, loud

    given = list(DOCS)
    assert ask(Q, given, loud=True) == (Q, [text for text in shortened(DOCS) if text], True)
    assert given == DOCS
    assert [result.stats.tokens_in for result in seen] == [
        BM25.compress(Q, [Passage(d) for d in DOCS], Budget(keep=1)).stats.tokens_in
    ]
    assert (ask.__name__, ask.__doc__) == ("ask", "Ask it.")
    assert "docs" in inspect.signature(ask).parameters


def test_every_kind_of_function_stays_of_its_kind():
    def plain(question, docs):
        return docs

    def generator(question, docs):
        got = yield docs
        yield got
        return "end"

    async def coroutine(question, docs):
        return docs

    async def async_generator(question, docs):
        try:
            got = yield docs
            yield got
        except KeyError:
            yield "caught"

    kinds = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    wrapped = {f.__name__: short(context="docs")(f) for f in (plain, generator, coroutine, async_generator)}
    for original in (plain, generator, coroutine, async_generator):
        assert [kind(wrapped[original.__name__]) for kind in kinds] == [kind(original) for kind in kinds]
    expected = [text for text in shortened(DOCS) if text]
    assert wrapped["plain"](Q, DOCS) == expected

    stream = wrapped["generator"](Q, docs=DOCS)
    assert next(stream) == expected
    assert stream.send("sent") == "sent"
    with pytest.raises(StopIteration, match="end"):
        next(stream)

    async def all_of_it():
        assert await wrapped["coroutine"](Q, DOCS) == expected
        assert [item async for item in wrapped["async_generator"](Q, DOCS)] == [expected, None]
        stream = wrapped["async_generator"](Q, DOCS)
        assert await anext(stream) == expected
        assert await stream.asend("sent") == "sent"
        await stream.aclose()
        stream = wrapped["async_generator"](Q, DOCS)
        await anext(stream)
        assert await stream.athrow(KeyError()) == "caught"
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    asyncio.run(all_of_it())


def test_methods_of_all_kinds():
    class Bot:
        name = "bot"

        @short(context="docs")
        def ask(self, question, docs):
            return self.name, docs

        @short(context="docs")
        @staticmethod
        def static(question, docs):
            return docs

        @short(context="docs")
        @classmethod
        def of_class(cls, question, docs):
            return cls.name, docs

    expected = [text for text in shortened(DOCS) if text]
    assert Bot().ask(Q, DOCS) == ("bot", expected)
    assert Bot.static(Q, DOCS) == expected
    assert Bot.of_class(Q, docs=DOCS) == ("bot", expected)
    assert short(context="docs")(Bot().ask)(Q, expected) == ("bot", expected)


def test_budget_and_bypass_per_call():
    @short(context="docs")
    def ask(question, docs):
        return docs

    assert ask(Q, DOCS, ctxcomp_bypass=True) is DOCS
    assert ask(Q, DOCS, ctxcomp_bypass=False) == ask(Q, DOCS)
    assert ask(Q, DOCS, ctxcomp_budget=1.0) == ask(Q, DOCS, ctxcomp_budget=Budget(tokens=9999)) == DOCS
    assert ask(Q, DOCS, ctxcomp_budget=0) == []
    for wrong in (-1, 1.5, True, "many"):
        with pytest.raises(BudgetError):
            ask(Q, DOCS, ctxcomp_budget=wrong)

    @short(context="docs")
    def declares(question, docs, ctxcomp_budget: Budget | None = None, **rest):
        return docs, ctxcomp_budget, rest

    assert declares(Q, DOCS, ctxcomp_budget=Budget(tokens=0), x=1) == ([], Budget(tokens=0), {"x": 1})


def test_contexts_of_every_kind_come_back_as_that_kind():
    documents = pytest.importorskip("langchain_core.documents")

    @short(context="context")
    def ask(query, context=None):
        return context

    passages = [Passage(text, id=str(i), score=1.0, metadata={"a": i}) for i, text in enumerate(DOCS)]
    left = ask(Q, passages)
    assert [p.id for p in left] == ["2"]
    assert left[0].metadata == {"a": 2}
    assert isinstance(ask(Q, tuple(passages)), tuple)
    files = [documents.Document(text, id=str(i), metadata={"source": f"{i}.txt"}) for i, text in enumerate(DOCS)]
    left = ask(Q, files)
    assert [(type(d), d.id, d.metadata) for d in left] == [(documents.Document, "2", {"source": "2.txt"})]
    assert files[2].page_content == BEES
    assert ask(Q, files[2]).page_content.startswith("A worker bee lives")
    assert len(ask(Q, files[2]).page_content) < len(BEES)
    assert ask(Q, [{"text": text, "n": i} for i, text in enumerate(DOCS)])[0]["n"] == 2
    assert ask(Q, "\n\n".join(DOCS)).startswith("A worker bee lives")
    numbered = ask(Q, f"[1] {RIVER}\n[2] {BEES}")
    assert numbered.startswith("[2] A worker bee")
    assert ask(Q) is None
    assert ask(Q, []) == []
    assert ask(Q, "") == ""
    assert ask(None, ["Short."]) == ["Short."]
    for wrong in (7, [7], {"a": 1}, b"x", [None]):
        with pytest.raises(InputError, match="context must hold"):
            ask(Q, wrong)


def test_the_query_from_wherever_it_is():
    def ask(docs, messages=None, payload=None):
        return docs

    expected = [text for text in shortened(DOCS) if text]
    messages = [{"role": "user", "content": "Hello."}, {"role": "user", "content": Q}]
    assert short(context="docs", messages="messages")(ask)(DOCS, messages) == expected
    assert short(context="docs", query="messages")(ask)(DOCS, Q) == expected
    by_callable = short(context="docs", query=lambda arguments: arguments["payload"]["q"])(ask)
    assert by_callable(DOCS, payload={"q": Q}) == expected


def test_messages_as_dictionaries_and_as_one_prompt():
    @short()
    def ask(messages):
        return messages

    given = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]
    left = ask(given)
    assert left[0] is given[0]
    assert left[1]["content"].startswith("Sources:\n[3] A worker bee")
    assert given[1]["content"] == PROMPT
    assert ask(PROMPT) == left[1]["content"]
    assert isinstance(ask(tuple(given)), tuple)
    assert ask(iter(given)) == left
    assert ask(None) is None
    with pytest.raises(InputError, match=r"messages\[1\]"):
        ask([{"role": "user", "content": "a"}, 7])


def test_find_and_roles():
    left = short(find=lambda message: message["content"].split("\n\n")[:3])(lambda messages: messages)(
        "\n\n".join([*DOCS, Q])
    )
    assert left.strip().startswith("A worker bee")
    tool = [{"role": "user", "content": PROMPT}, {"role": "tool", "tool_call_id": "1", "content": " ".join(DOCS)}]
    left = short(roles=["tool"])(lambda messages: messages)(tool)
    assert left[0] is tool[0]
    assert left[1]["content"] != tool[1]["content"]


def test_langchain_messages_are_copied():
    core = pytest.importorskip("langchain_core.messages")

    @short()
    def ask(messages):
        return messages

    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    given = [
        core.SystemMessage("Be brief."),
        core.HumanMessage([{"type": "text", "text": f"<context>{RIVER} {GLASS}</context>"}, image], id="h"),
        core.AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}]),
        core.ToolMessage(f"{BEES} {GLASS}", tool_call_id="1", artifact={"a": 1}),
        ("human", Q),
    ]
    before = [m if isinstance(m, tuple) else m.model_copy(deep=True) for m in given]
    left = ask(given)
    assert given == before
    assert [left[i] is given[i] for i in range(5)] == [True, False, True, False, True]
    assert (left[1].id, left[1].content[1]) == ("h", image)
    assert isinstance(left[3], core.ToolMessage)
    assert left[3].artifact == {"a": 1}
    assert "worker bee" in left[3].content


def test_prompt_values_and_objects_of_other_clients():
    prompts = pytest.importorskip("langchain_core.prompts")
    openai = pytest.importorskip("openai")

    @short(messages="input")
    def invoke(input):
        return input

    value = prompts.ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "{prompt}")]).invoke(
        {"prompt": PROMPT}
    )
    left = invoke(value)
    assert [message.type for message in left] == ["system", "human"]
    assert left[1].content.startswith("Sources:\n[3] A worker bee")
    thought = openai.types.responses.ResponseReasoningItem(id="r", summary=[], type="reasoning")
    items = [{"role": "user", "content": [{"type": "input_text", "text": PROMPT}]}, thought]
    left = invoke(items)
    assert left[0]["content"][0]["text"].startswith("Sources:\n[3] A worker bee")
    assert left[1] is thought


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"context": "dosc"}, "did you mean 'docs'"),
        ({"context": "docs", "query": "qeustion"}, "did you mean 'question'"),
        ({"messages": "mesages"}, "has no parameter"),
        ({}, "messages"),
        ({"context": "docs", "find": list}, "find"),
    ],
)
def test_wrong_names_fail_when_the_decorator_is_applied(settings, match):
    def ask(question, docs, *rest):
        return docs

    with pytest.raises(InputError, match=match):
        short(**settings)(ask)


def test_other_mistakes_fail_when_it_is_applied():
    for wrong in ({}, {"keep": 0.1, "tokens": 1}, {"keep": 2.0}, {"tokens": -1}):
        with pytest.raises(BudgetError):
            compress_context(**wrong)
    with pytest.raises(InputError, match="query="):
        short(context="text")(lambda text, other: text)
    with pytest.raises(InputError, match="function"):
        short()(7)
    with pytest.raises(InputError, match="parameters"):
        short()(min)

    async def hook(result):
        pass

    with pytest.raises(InputError, match="async"):
        short(context="docs", on_compressed=hook)(lambda question, docs: docs)


def test_open_ended_functions_are_checked_when_they_are_called():
    @short(messages="messages")
    def create(**request):
        return request["messages"]

    assert create(model="m", messages=PROMPT) != PROMPT
    with pytest.raises(InputError, match="without 'messages'"):
        create(model="m")


def test_a_wrong_call_fails_with_the_functions_own_words():
    @short(context="docs")
    def ask(question, docs):
        return docs

    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'docs'"):
        ask(Q)


def test_hooks_async_and_failing():
    told = []

    async def hook(result):
        await asyncio.sleep(0)
        told.append(result.stats.tokens_out)

    @short(context="docs", on_compressed=hook)
    async def ask(question, docs):
        return docs

    asyncio.run(ask(Q, DOCS))
    assert len(told) == 1

    def failing(result):
        raise KeyError("hook")

    with pytest.raises(KeyError, match="hook"):
        short(context="docs", on_compressed=failing)(lambda question, docs: docs)(Q, DOCS)


def test_the_event_loop_is_not_held_up():
    threads = []

    class Watching(type(BM25)):
        def compress_batch(self, requests):
            threads.append(threading.current_thread())
            return super().compress_batch(requests)

    @compress_context(context="docs", tokens=30, compressor=Watching(counter="minilm"))
    async def ask(question, docs):
        return threading.current_thread()

    assert asyncio.run(ask(Q, DOCS)) not in threads


def test_nothing_is_loaded_before_the_first_call():
    code = (
        "import sys\nfrom ctxcomp import compress_context\n"
        "@compress_context(context='docs', tokens=5)\ndef ask(question, docs): return docs\n"
        "before = 'onnxruntime' in sys.modules or 'ctxcomp.text.sentence_pruner' in sys.modules\n"
        "ask('honey?', ['Bees make honey. Rain falls on the hills.'])\n"
        "from ctxcomp.integrations.calls import _load\n"
        "ask('honey?', ['Bees make honey. Rain falls on the hills.'])\n"
        "print(before, 'ctxcomp.text.sentence_pruner' in sys.modules, _load.cache_info().misses)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "1"]


def test_types_are_preserved(tmp_path, root):
    api = pytest.importorskip("mypy.api")
    file = tmp_path / "typed.py"
    file.write_text(
        "from collections.abc import AsyncIterator\nfrom ctxcomp.integrations.decorator import compress_context\n"
        "@compress_context(context='docs', tokens=5)\n"
        "def ask(question: str, docs: list[str], *, loud: bool = False) -> int: return 1\n"
        "@compress_context(context='docs', keep=0.5)\n"
        "async def later(question: str, docs: list[str]) -> bytes: return b''\n"
        "@compress_context(context='docs', keep=0.5)\n"
        "async def stream(question: str, docs: list[str]) -> AsyncIterator[str]:\n    yield ''\n"
        "reveal_type(ask)\nreveal_type(later)\nreveal_type(stream)\nask(1, [])\n"
    )
    # Only these two files, or mypy reads all of numpy and takes a minute.
    source = root / "ctxcomp" / "integrations" / "decorator.py"
    settings = ["--follow-imports=skip", "--no-error-summary", "--config-file=", f"--cache-dir={tmp_path}"]
    out, _, _ = api.run([*settings, str(file), str(source)])
    out = out.replace("builtins.", "").replace("typing.", "").replace("collections.abc.", "").replace("= ...", "=")
    assert '"def (question: str, docs: list[str], *, loud: bool =) -> int"' in out
    assert '"def (question: str, docs: list[str]) -> Coroutine[Any, Any, bytes]"' in out
    assert '"def (question: str, docs: list[str]) -> AsyncIterator[str]"' in out
    assert out.count("error:") == 1
    assert '"ask" has incompatible type "int"; expected "str"' in out
