"""What holds for any messages, however odd: hypothesis makes them from the pieces that prompts are made of."""

# ruff: noqa: E501  # prompts are long lines

from __future__ import annotations

import copy
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_cases import BEES, FAQ, GLASS, MARKDOWN, RIVER

from ctxcomp import Budget, load, resolve_counter
from ctxcomp.messages import compress_messages, locate

COMPRESSORS = [load("bm25", counter="minilm"), load("truncate", counter="minilm"), load("random", counter="minilm")]

PIECES = st.sampled_from(
    [
        RIVER, GLASS, BEES, FAQ, MARKDOWN, "<context>", "</context>", "<documents>", "</documents>", '<doc id="1">', "</doc>",
        "<source>a.txt</source>", "\n", "\n\n", " ", "Context:", "Question:", "Answer:", "Documents:\n", "## Sources\n", "[1] ",
        "[2] ", "[3]", "1. ", "2. ", "Source 1: ", "Source 2: ", "Title: x\n", "---\n", "```\n", '"""\n', "?", "Why is that?",
        '[{"text": "', '", "url": "u"}]', '", "url": "u"}, {"text": "', "\\u00e9", "\\", '"', "[", "]", "{", "}", "\ud800", "\0",
        "長城は大きい。", "\u202e", "🙂", "Use the following pieces of context to answer.\n", "BEGIN CONTEXT\n", "END CONTEXT\n", "\r\n",
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=14).map("".join) | st.text(max_size=60)
PARTS = st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}) | st.just(
    {"type": "image_url", "image_url": {}}
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "tool", "assistant", "system"]),
            "content": TEXTS | st.lists(PARTS, max_size=3) | st.none(),
        },
        optional={"name": st.just("n"), "ctxcomp": st.sampled_from(["context", "keep"])},
    ),
    max_size=4,
)
BUDGETS = st.builds(lambda n: Budget(tokens=n), st.integers(0, 120)) | st.builds(
    lambda f: Budget(keep=f), st.floats(0.01, 1)
)


def texts(message):
    content = message["content"]
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if "text" in part]


def is_subsequence(short, long):
    rest = iter(long)
    return all(character in rest for character in short)


@settings(max_examples=200)
@given(MESSAGES, BUDGETS, st.sampled_from(COMPRESSORS), st.none() | st.just("Why do bees live long?"))
def test_invariants(messages, budget, compressor, query):
    before = copy.deepcopy(messages)
    done = compress_messages(messages, compressor, budget, query=query, min_characters=1)
    assert messages == before
    assert done.messages == compress_messages(messages, compressor, budget, query=query, min_characters=1).messages
    assert [m["role"] for m in done.messages] == [m["role"] for m in messages]
    count = resolve_counter("minilm").count
    assert done.tokens_out == sum(count(text) for message in done.messages for text in texts(message))
    if done.results:
        assert done.tokens_context <= budget.resolve(done.results[0].stats.tokens_in)
    touched = {(place.message, place.part) for place in done.located.places}
    has_json = any(slot.json for place in done.located.places for slot in place.slots)
    for i, (old, new) in enumerate(zip(messages, done.messages, strict=True)):
        if all(message != i for message, _ in touched):
            assert new == {key: value for key, value in old.items() if key != "ctxcomp"}
        elif not has_json:
            # A join can be wider than what stood at its edge, but nothing visible is new, and all is in order.
            assert all(
                is_subsequence("".join(b.split()), "".join(a.split()))
                for a, b in zip(texts(old), texts(new), strict=True)
            )


@given(st.lists(st.text(), min_size=1, max_size=6), st.integers(0, 30), st.booleans())
def test_json_survives_any_text(contents, tokens, ascii_only):
    payload = {"results": [{"content": text, "id": i, "also": [1, "x"]} for i, text in enumerate(contents)]}
    text = json.dumps(payload, ensure_ascii=ascii_only)
    messages = [{"role": "user", "content": "Why?"}, {"role": "tool", "content": text}]
    done = compress_messages(messages, COMPRESSORS[0], Budget(tokens=tokens), min_characters=0)
    left = json.loads(done.messages[1]["content"])["results"]
    for row in left:
        assert row["also"] == [1, "x"]
        assert is_subsequence("".join(row["content"].split()), "".join(contents[row["id"]].split()))
    assert [row["id"] for row in left] == sorted(row["id"] for row in left)


HOSTILE = [
    "<", "[1] ", "[1] x\n", "<a>", "<context>", "<context>a</context>", '{"a":', "[{", '[{"text":"', '"', "\\", "\n", " ", "\n ",
    "Context:\n", "Question: x?\nAnswer: y\n", "Context: x\nQuestion: y\nAnswer: z\n", "---\n", "```\n", '"""\n', "#", "*_",
    "Title: x\n", "Source: a\nContent: b\n", "Document 1: a\n", "(", "Document [1](", "<a ", "?\n\n", "BEGIN CONTEXT\n",
    "START CONTEXT\nEND CONTEXT\n", "[", "# a\n", "\ud800", "1. a\n", "[{\"text\":\"abc\"}] ", "</context>", "【1】", "a:", "\t",
]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
def test_time_grows_with_the_size_alone(unit):
    """Twenty times as much must not cost more than a hundred times as much; quadratic would be four hundred."""

    def seconds(size):
        text = unit * (size // len(unit)) + " why?"
        best = 1e9
        for _ in range(2):
            began = time.process_time()
            for role in ("user", "tool"):
                locate([{"role": role, "content": text}, {"role": "user", "content": "Why?"}])
            best = min(best, time.process_time() - began)
        return best

    assert seconds(200_000) < 100 * max(seconds(10_000), 0.002)


def test_a_megabyte_of_prose_and_of_documents():
    prose = "The dog ran home, and nobody saw it. " * 27_000
    documents = "".join(f"<doc id='{i}'>{RIVER}</doc>\n" for i in range(2_700))
    began = time.process_time()
    assert locate([{"role": "user", "content": f"{prose}\n\nWhy did it run?"}]).places
    assert len(locate([{"role": "user", "content": f"{documents}\nWhere does it rise?"}]).passages) == 2_700
    assert time.process_time() - began < 10


def test_nested_tags_of_any_depth():
    located = locate([{"role": "user", "content": "<doc>" * 20_000 + RIVER + "</doc>" * 20_000 + "\nWhy?"}])
    assert len(located.passages) <= 1
