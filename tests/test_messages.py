"""Context in chat messages: what is found, what is left alone, and that what is put back is exact."""

from __future__ import annotations

import copy
import importlib
import json

import pytest
from prompt_cases import BEES, CHINESE, CODE, GLASS, NEGATIVE, POSITIVE, QUERIES, RIVER, Q, unmarked

from ctxcomp import Budget, InputError, Passage, load
from ctxcomp.messages import apply, compress_messages, count_messages, locate, plan

BM25 = load("bm25", counter="minilm")
HELD_OUT, THIRD = (importlib.import_module(f"prompt_cases_{name}") for name in ("held_out", "third"))
MISSED = {"curly", "ref-brackets"}
"""Conventions that the rules do not know: nothing is compressed there."""
ALL_POSITIVE = {k: v for k, v in (POSITIVE | HELD_OUT.POSITIVE | THIRD.POSITIVE).items() if k not in MISSED}
ALL_NEGATIVE = NEGATIVE | HELD_OUT.NEGATIVE | THIRD.NEGATIVE
ALL_QUERIES = QUERIES | HELD_OUT.QUERIES | THIRD.QUERIES


def covered(messages, located):
    """The visible characters that passages cover: (message, part, offset)."""
    found = set()
    for place in located.places:
        content = messages[place.message]["content"]
        text = content if place.part is None else content[place.part]["text"]
        for slot in place.slots:
            found |= {(place.message, place.part, k) for k in range(slot.start, slot.end) if not text[k].isspace()}
    return found


@pytest.mark.parametrize("name", ALL_POSITIVE)
def test_context_and_question_are_found(name):
    messages, truth = unmarked(ALL_POSITIVE[name])
    located = locate(messages)
    found = covered(messages, located)
    assert len(found & truth) >= 0.95 * len(truth)
    assert len(found & truth) >= 0.98 * len(found)
    assert ALL_QUERIES[name] in located.query


@pytest.mark.parametrize("name", ALL_NEGATIVE)
def test_what_is_no_context_is_left_alone(name):
    messages = ALL_NEGATIVE[name]
    assert locate(messages).places == ()
    done = compress_messages(messages, BM25, Budget(tokens=0))
    assert done.messages == messages
    assert done.results == ()
    assert done.tokens_in == done.tokens_out == count_messages(messages, "minilm")


@pytest.mark.parametrize("name", ALL_POSITIVE)
@pytest.mark.parametrize("tokens", [0, 40])
def test_text_around_passages_survives(name, tokens):
    """With every passage and its shell cut out, nothing else has changed."""
    messages, _ = unmarked(ALL_POSITIVE[name])
    before = copy.deepcopy(messages)
    located = locate(messages)
    done = compress_messages(messages, BM25, Budget(tokens=tokens), located=located)
    assert messages == before
    assert done.tokens_context <= tokens
    assert done.tokens_out < done.tokens_in
    touched = {place.message for place in located.places}
    for i, message in enumerate(messages):
        if i not in touched:
            assert done.messages[i] == message
    for place in located.places:
        old, new = messages[place.message]["content"], done.messages[place.message]["content"]
        if place.part is not None:
            old, new = old[place.part]["text"], new[place.part]["text"]
        assert new.startswith(old[: min(p.start for p in located.places if p.message == place.message)])
        tail = old[max(p.end for p in located.places if (p.message, p.part) == (place.message, place.part)) :]
        assert new.endswith(tail)


def test_passages_go_with_their_numbers_and_the_rest_keep_theirs():
    text = f"Sources:\n[1] {RIVER}\n\n[2] {GLASS}\n\n[3] {BEES}\n\nQuestion: {Q}"
    done = compress_messages([{"role": "user", "content": text}], BM25, Budget(tokens=30))
    content = done.messages[0]["content"]
    assert content.startswith("Sources:\n[3] A worker bee")
    assert "[1]" not in content
    assert "[2]" not in content
    assert content.endswith(f"\n\nQuestion: {Q}")


def test_tags_go_with_their_passages_and_the_container_stays():
    documents = "\n".join(
        f'<document index="{i}">\n<source>{i}.txt</source>\n'
        f"<document_content>\n{text}\n</document_content>\n</document>"
        for i, text in enumerate([RIVER, GLASS, BEES], start=1)
    )
    done = compress_messages(
        [{"role": "user", "content": f"<documents>\n{documents}\n</documents>\n\n{Q}"}], BM25, Budget(tokens=30)
    )
    content = done.messages[0]["content"]
    assert content.startswith('<documents>\n<document index="3">\n<source>3.txt</source>\n<document_content>\nA worker')
    assert content.endswith(f"\n</document_content>\n</document>\n</documents>\n\n{Q}")
    assert content.count("<document ") == content.count("</document>") == 1


def test_json_stays_json_and_keeps_its_other_fields():
    rows = [
        {"title": str(i), "content": text, "score": i / 10, "n": None} for i, text in enumerate([RIVER, BEES, GLASS])
    ]
    payload = {"query": "x", "results": rows, "next": ["a", {"b": 1}]}
    for ascii_only in (True, False):
        for text in (BEES, f'{BEES}\n"Honig" für {CHINESE}'):
            rows[1]["content"] = text
            content = json.dumps(payload, indent=2, ensure_ascii=ascii_only)
            messages = [{"role": "user", "content": Q}, {"role": "tool", "tool_call_id": "1", "content": content}]
            done = compress_messages(messages, BM25, Budget(tokens=30))
            left = json.loads(done.messages[1]["content"])
            assert done.messages[1]["content"].isascii() or not content.isascii()
            assert {key: left[key] for key in ("query", "next")} == {"query": "x", "next": ["a", {"b": 1}]}
            assert [row["title"] for row in left["results"]] == ["1"]
            assert text.startswith(left["results"][0]["content"][:40])


def test_a_lone_json_object_keeps_its_shape_and_code_in_it_is_left_alone():
    page = {"url": "https://example.org", "content": f"{RIVER} {BEES} {GLASS}", "status": 200}
    messages = [{"role": "user", "content": Q}, {"role": "tool", "content": json.dumps(page)}]
    left = json.loads(compress_messages(messages, BM25, Budget(tokens=30)).messages[1]["content"])
    assert left.keys() == page.keys()
    assert left["content"].startswith("A worker bee")
    assert json.loads(compress_messages(messages, BM25, Budget(tokens=0)).messages[1]["content"]) == page | {
        "content": ""
    }
    messages[1]["content"] = json.dumps({"path": "pool.py", "content": CODE * 3})
    assert not locate(messages).places


@pytest.mark.parametrize("name", sorted(MISSED))
def test_what_is_not_recognised_is_left_alone(name):
    messages, _ = unmarked(THIRD.POSITIVE[name])
    assert compress_messages(messages, BM25, Budget(tokens=0)).messages == messages


def test_what_fits_is_not_touched():
    for name, marked in ALL_POSITIVE.items():
        messages, _ = unmarked(marked)
        done = compress_messages(messages, BM25, Budget(tokens=100_000))
        assert done.messages == messages, name
        assert done.tokens_out == done.tokens_in


def test_all_places_share_one_budget():
    messages = [
        {"role": "user", "content": f"<context>{RIVER}</context>\n{Q}"},
        {"role": "tool", "tool_call_id": "1", "content": f"{BEES} {GLASS}"},
    ]
    located, requests = plan(messages, Budget(tokens=40))
    assert [len(place.passages) for place in located.places] == [1, 1]
    assert len(requests) == 1
    assert len(requests[0].passages) == 2
    done = apply(messages, located, BM25.compress_batch(requests), counter="minilm")
    assert "worker bee" in done.messages[1]["content"]
    assert done.messages[0]["content"] == f"<context></context>\n{Q}"


def test_elision_shows_where_passages_went():
    text = f"Sources:\n[1] {RIVER}\n\n[2] {GLASS}\n\n[3] {BEES}\n\nQuestion: {Q}"
    done = compress_messages([{"role": "user", "content": text}], BM25, Budget(tokens=30), elision="[…]")
    assert done.messages[0]["content"].startswith("Sources:\n[…]\n\n[3] A worker")


def test_parts_images_calls_and_unknown_keys_pass_through():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}], "x": 1}
    parts = [{"type": "text", "text": f"<context>{RIVER} {BEES}</context>", "cache": True}, image]
    messages = [{"role": "user", "name": "jo", "content": [*parts, {"type": "text", "text": Q}]}, call]
    done = compress_messages(messages, BM25, Budget(tokens=20))
    first = done.messages[0]
    assert first["name"] == "jo"
    assert first["content"][1] is image
    assert first["content"][0]["cache"] is True
    assert first["content"][0]["text"] != parts[0]["text"]
    assert done.messages[1] == call


def test_a_message_can_say_what_it_is():
    messages = [
        {"role": "user", "content": f"{BEES} {RIVER}", "ctxcomp": "context"},
        {"role": "user", "content": [{"type": "text", "text": f"<context>{GLASS}</context>", "ctxcomp": "keep"}]},
        {"role": "user", "content": Q},
    ]
    done = compress_messages(messages, BM25, Budget(tokens=25))
    assert [place.how for place in done.located.places] == ["field"]
    assert done.messages[0].keys() == {"role", "content"}
    assert done.messages[1] == {"role": "user", "content": [{"type": "text", "text": f"<context>{GLASS}</context>"}]}
    with pytest.raises(InputError, match="context"):
        locate([{"role": "user", "content": "a", "ctxcomp": "nonsense"}])


def test_system_messages_only_on_request():
    messages = [{"role": "system", "content": f"<context>{RIVER} {BEES}</context>"}, {"role": "user", "content": Q}]
    assert not locate(messages).places
    assert locate(messages, roles=("system",)).places[0].message == 0
    messages[0]["ctxcomp"] = "context"
    assert locate(messages).places[0].how.startswith("field")


def test_the_query_is_never_made_up():
    context = f"<context>{RIVER} {BEES}</context>"
    only = [{"role": "user", "content": context}]
    assert locate(only).query == ""
    assert locate(only).places == ()
    assert len(locate(only, query="").places) == 1
    before = [{"role": "user", "content": Q}, *only]
    located = locate(before)
    assert (located.query, located.query_from) == (Q, "an earlier user message")
    assert locate(before, query="bees?").query_from == "given"


def test_find_says_what_is_context():
    text = f"Notes {RIVER} | {BEES} | end"
    messages = [{"role": "user", "content": text}, {"role": "user", "content": Q}]
    located = locate(
        messages, find=lambda message: message["content"].split(" | ")[:2] if "|" in message["content"] else []
    )
    assert [place.passages[0].text for place in located.places] == [f"Notes {RIVER}", BEES]
    with pytest.raises(InputError, match="do not occur"):
        locate(messages, find=lambda message: ["nowhere to be found"])
    with pytest.raises(InputError, match="list of str"):
        locate(messages, find=lambda message: "text")


def test_numbers_titles_and_sources_name_the_passages():
    text = f"Document [1](Title: The Rhine) {RIVER}\nDocument [2](Title: Bees) {BEES}\n\nQuestion: {Q}"
    passages = locate([{"role": "user", "content": text}]).passages
    assert passages == (Passage(RIVER, id="1", title="The Rhine"), Passage(BEES, id="2", title="Bees"))
    text = f'<doc id="a" title="The Rhine">{RIVER}</doc>\n<doc id="b">{BEES}</doc>\n{Q}'
    passages = locate([{"role": "user", "content": text}]).passages
    assert passages == (Passage(RIVER, id="a", title="The Rhine"), Passage(BEES, id="b"))


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        ("text", "list of"),
        (None, "list of"),
        ({"role": "user"}, "list of"),
        ([None], r"messages\[0\]"),
        ([{"role": "user", "content": "a"}, "b"], r"messages\[1\]"),
    ],
)
def test_what_is_no_list_of_messages_is_refused(messages, match):
    with pytest.raises(InputError, match=match):
        locate(messages)


@pytest.mark.parametrize("content", [None, "", 7, [], [None], [{"type": "text"}], [{"type": "text", "text": 3}], {}])
def test_odd_contents_pass_through(content):
    messages = [{"role": "user", "content": content}, {"content": content}, {}]
    assert compress_messages(messages, BM25, Budget(tokens=1)).messages == messages


def test_results_of_other_messages_are_refused():
    messages = [{"role": "user", "content": f"<context>{RIVER}</context>\n{Q}"}]
    located, requests = plan(messages, Budget(tokens=20))
    results = BM25.compress_batch(requests)
    with pytest.raises(InputError, match="plan"):
        apply(messages, locate([*messages, {"role": "tool", "content": GLASS}]), results)
    with pytest.raises(InputError, match="changed"):
        apply([{"role": "user", "content": "short"}], located, results)
