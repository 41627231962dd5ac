"""The messages form of POST /v1/compress, over the wire."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

import httpx

from ctxcomp.counting import resolve_counter
from ctxcomp_service.auth import hash_key
from ctxcomp_service.marks import mark_of

FACTS = [f"The mill at Ford {i} burnt down in {1700 + i} and was rebuilt by Anna Smith {i}." for i in range(40)]
QUESTION = "When did the mill at Ford 7 burn down?"
RAG = f"<context>\n{' '.join(FACTS)}\n</context>\n\n{QUESTION}"
NUMBERED = "\n".join(f"[{i}] {' '.join(FACTS[8 * i : 8 * i + 8])}" for i in range(5)) + f"\n\n{QUESTION}"
LABELLED = f"Context:\n{' '.join(FACTS)}\n\nQuestion: {QUESTION}"
HASH = re.compile(r"hash=([a-f0-9]{24})")  # what gateways look for
KEYS = {"one": "ctxc_one", "two": "ctxc_two"}


@pytest.fixture(scope="module")
def url(live_server):
    return live_server()


@pytest.fixture(scope="module")
def tenants(live_server):
    """Two tenants; messages of the second are marked by default, and have a budget."""
    keys = [{"id": name, "tenant": name, "sha256": hash_key(key)} for name, key in KEYS.items()]
    keys[1] |= {"markers": True, "budget": {"keep": 0.2}}
    return live_server(keys=keys)


def user(text) -> dict:
    return {"role": "user", "content": text}


def compress(url: str, messages: list, *, headers: dict[str, str] | None = None, **fields) -> dict:
    answer = httpx.post(f"{url}/v1/compress", json={"messages": messages, **fields}, headers=headers, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()


def count(text: str) -> int:
    return resolve_counter().count(text)


@pytest.mark.parametrize(
    ("text", "how"), [(RAG, "tag <context>"), (NUMBERED, "numbered passages"), (LABELLED, "label Context:")]
)
def test_context_in_a_users_message_is_compressed_and_said_to_be(url, text, how):
    done = compress(url, [user(text)], model="gpt-4o", budget={"tokens": 80})
    content = done["messages"][0]["content"]
    assert "Ford 7 burnt down in 1707" in content
    assert content.endswith(QUESTION)
    [context] = done["located"]
    assert (context["message"], context["part"], context["query"]) == (0, None, QUESTION)
    assert context["how"].startswith(how)
    assert "Ford 0 burnt" in text[context["start"] : context["end"]]
    assert done["tokens_before"] == count(text)
    assert done["tokens_after"] == count(content)
    assert done["tokens_saved"] == done["tokens_before"] - done["tokens_after"] > 0
    assert done["compression_ratio"] == pytest.approx(done["tokens_after"] / done["tokens_before"])
    assert done["transforms_applied"] == ["ctxcomp:bm25"]
    assert done["counter"] == "o200k_base"


@pytest.mark.parametrize(
    ("fields", "budget"),
    [
        ({}, {"tokens": None, "keep": 0.5}),
        ({"budget": {"tokens": 70}}, {"tokens": 70, "keep": None}),
        ({"token_budget": 70}, {"tokens": 70, "keep": None}),
        ({"config": {"target_ratio": 0.1}}, {"tokens": None, "keep": 0.1}),
        ({"budget": {"keep": 0.3}, "token_budget": 7, "config": {"target_ratio": 0.9}}, {"tokens": None, "keep": 0.3}),
    ],
)
def test_budgets(url, fields, budget):
    done = compress(url, [user(RAG)], **fields)
    assert done["budget"] == budget
    around = count(RAG) - count(" ".join(FACTS))
    allowed = budget["tokens"] or budget["keep"] * count(" ".join(FACTS))
    assert 0.6 * allowed < done["tokens_after"] - around <= allowed


def test_what_is_no_context_comes_back_as_it_came(url):
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1.0}'}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [
        {"role": "system", "content": f"Use this. {RAG}"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "ok"},
        {"role": "user", "name": "Zoë", "content": [image, {"type": "text", "text": "What is this? 😀"}, image]},
        {"role": "assistant", "content": RAG, "unknown": [1.5, None, {"ü": True}]},
    ]
    done = compress(url, messages)
    assert done["messages"] == messages
    assert json.dumps(done["messages"]) == json.dumps(messages)
    assert (done["located"], done["hashes"], done["transforms_applied"], done["tokens_saved"]) == ([], [], [], 0)


def test_images_stay_where_context_beside_them_is_compressed(url):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    done = compress(url, [user([image, {"type": "text", "text": RAG}, image])], budget={"keep": 0.1})
    content = done["messages"][0]["content"]
    assert content[0] == content[2] == image
    assert len(content[1]["text"]) < len(RAG) / 4
    assert done["located"][0]["part"] == 1


def test_json_of_a_tool_stays_json(url):
    rows = [{"id": i, "text": " ".join(FACTS[i : i + 5]), "score": 0.5} for i in range(0, 40, 5)]
    messages = [user(QUESTION), {"role": "tool", "tool_call_id": "c", "content": json.dumps(rows)}]
    done = compress(url, messages, budget={"keep": 0.2}, markers=True)
    left = json.loads(done["messages"][1]["content"])
    assert any("Ford 7 burnt" in row["text"] for row in left)
    assert {row["id"] for row in left} <= {row["id"] for row in rows}
    assert done["located"][0]["query"] == QUESTION
    assert done["ccr_hashes"] == []  # JSON holds no marks; the original is there all the same
    [original] = done["hashes"]
    assert httpx.get(f"{url}/v1/retrieve/{original['hash']}").json() == {"original_content": messages[1]["content"]}


@pytest.mark.parametrize("fields", [{"markers": True}, {"config": {"mode": "ccr"}}])
@pytest.mark.parametrize("text", [RAG, NUMBERED, LABELLED])
def test_marks_name_the_original_and_count_in_the_budget(url, text, fields):
    plain = compress(url, [user(text)], budget={"tokens": 120})
    done = compress(url, [user(text)], budget={"tokens": 120}, **fields)
    content = done["messages"][0]["content"]
    assert HASH.findall(content) == done["ccr_hashes"]
    [mark] = done["ccr_hashes"]
    assert "parts of the context above are left out" in content
    assert content.endswith(QUESTION)
    assert "Ford 7 burnt" in content
    assert httpx.get(f"{url}/v1/retrieve/{mark}?query=mill").json() == {"original_content": text}
    assert plain["ccr_hashes"] == []
    around = plain["tokens_after"] - 120
    assert done["tokens_after"] - max(around, 0) <= 120 + (count(text) - count(" ".join(FACTS)))
    assert count(content.replace(mark_of(mark), "")) <= done["tokens_after"] - count(mark_of(mark)) + 2


def test_no_mark_where_nothing_is_left_out_or_no_room(url):
    whole = compress(url, [user(RAG)], budget={"keep": 1.0}, markers=True)
    assert (whole["messages"], whole["ccr_hashes"], whole["hashes"]) == ([user(RAG)], [], [])
    tiny = compress(url, [user(RAG)], budget={"tokens": 20}, markers=True)
    assert tiny["ccr_hashes"] == []
    assert len(tiny["hashes"]) == 1


def test_each_message_is_compressed_for_the_question_of_its_turn(url):
    other = QUESTION.replace("7", "9")
    messages = [user(RAG), {"role": "assistant", "content": "1707."}, user(RAG.replace(QUESTION, other))]
    done = compress(url, messages, budget={"tokens": 40})
    assert [c["query"] for c in done["located"]] == [QUESTION, other]
    early, late = done["messages"][0]["content"], done["messages"][2]["content"]
    assert "Ford 7 burnt" in early
    assert "Ford 9 burnt" in late
    assert compress(url, messages[:1], budget={"tokens": 40})["messages"][0] == done["messages"][0]
    given = compress(url, messages, budget={"tokens": 40}, query="Ford 21?")
    assert given["messages"][0] == done["messages"][0]
    assert "Ford 21 burnt" in given["messages"][2]["content"]


def test_one_budget_for_the_whole_conversation(url):
    messages = [user(RAG), {"role": "assistant", "content": "1707."}, user(RAG.replace("Ford 7 b", "Ford 9 b"))]
    done = compress(url, messages, budget={"tokens": 60}, share="conversation")
    around = sum(count(m["content"]) for m in messages) - 2 * count(" ".join(FACTS))
    assert done["tokens_after"] <= 60 + around
    assert {c["query"] for c in done["located"]} == {QUESTION.replace("7", "9")}


def test_messages_that_stay(url):
    messages = [user(RAG), user(RAG), user(RAG), user(RAG)]
    changed = {"frozen": (2, 3), "recent": (0, 1)}
    changed |= {"config.frozen_message_count": (2, 3), "config.protect_recent": (0, 1)}
    for name, expected in changed.items():
        table, _, field = name.rpartition(".")
        done = compress(url, messages, **({table: {field: 2}} if table else {field: 2}))
        assert tuple(i for i in range(4) if done["messages"][i] != messages[i]) == expected
    none = compress(url, messages, config={"compress_user_messages": False})
    assert none["messages"] == messages


def test_the_system_message_only_if_asked_for(url):
    messages = [{"role": "system", "content": f"<context>{' '.join(FACTS)}</context>"}, user(QUESTION)]
    assert compress(url, messages)["messages"] == messages
    done = compress(url, messages, roles=["system"], budget={"keep": 0.1})
    assert "Ford 7 burnt" in done["messages"][0]["content"]
    assert (done["located"][0]["query"], done["located"][0]["query_from"]) == (QUESTION, "user message 1")


@pytest.mark.parametrize("header", ["x-ctxcomp-bypass", "x-headroom-bypass"])
def test_bypass(url, header):
    done = compress(url, [user(RAG)], headers={header: "true"})
    assert done["messages"] == [user(RAG)]
    assert (done["tokens_saved"], done["compression_ratio"], done["transforms_applied"]) == (0, 1.0, [])
    assert done["located"] == done["ccr_hashes"] == done["hashes"] == []
    assert compress(url, [user(RAG)], headers={header: "false"})["tokens_saved"] > 0


def test_fields_without_effect_are_named(url):
    config = {"protect_analysis_context": True, "target_ratio": 0.5}
    done = compress(url, [user("hi")], config=config, future=1)
    assert done["ignored"] == ["config.protect_analysis_context", "future"]


def test_no_messages(url):
    done = compress(url, [])
    assert (done["messages"], done["tokens_before"], done["compression_ratio"]) == ([], 0, 1.0)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"messages": "hi"}, 422),
        ({"messages": ["hi"]}, 422),
        ({"budget": {"tokens": 1, "keep": 0.5}}, 422),
        ({"budget": {"keep": 2}}, 422),
        ({"method": "nothing"}, 422),
        ({"method": "bm25\r\nx-a: b"}, 422),
        ({"options": {"head": "/etc/passwd"}}, 422),
        ({"roles": ["root"]}, 422),
        ({"context": ["not there"]}, 422),
        ({"messages": [{"role": "user", "content": "x", "ctxcomp": "secret"}]}, 422),
        ({"model": "x" * 300}, 422),
    ],
)
def test_what_cannot_be_done_is_refused(url, fields, status):
    body = {"messages": [user("hello")], **fields}
    answer = httpx.post(f"{url}/v1/compress", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":[{"role":"user","content":"\\ud83d"}]}',
        b'{"messages":[], "\\udc00":1}',
        b'{"messages":[{"role":"user","x":NaN}]}',
    ],
)
def test_what_could_not_be_sent_back_is_refused(url, body):
    answer = httpx.post(f"{url}/v1/compress", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422


def test_a_model_of_no_known_tokenizer_is_counted_by_the_default(url):
    assert compress(url, [user(RAG)], model="../../etc/passwd")["counter"] == "o200k_base"


def test_originals_are_the_tenants_own(tenants):
    one, two = ({"authorization": f"Bearer {key}"} for key in KEYS.values())
    done = compress(tenants, [user(RAG)], headers=one)
    [original] = done["hashes"]
    address = f"{tenants}/v1/retrieve/{original['hash']}"
    assert httpx.get(address, headers=one).json() == {"original_content": RAG}
    assert httpx.get(address, headers=two).status_code == 404
    assert httpx.get(address).status_code == 401
    marked = compress(tenants, [user(RAG)], headers=two)
    assert (marked["budget"]["keep"], len(marked["ccr_hashes"])) == (0.2, 1)
    assert marked["ccr_hashes"][0] != original["hash"]
    assert compress(tenants, [user(RAG)], headers=two, markers=False)["ccr_hashes"] == []


def test_originals_are_not_kept_if_not_wanted(url):
    text = RAG.replace("Anna", "Berta")
    assert compress(url, [user(text)], keep_originals=False)["hashes"] == []


@pytest.mark.parametrize("policy", ["closed", "input"])
def test_a_conversation_that_takes_too_long(live_server, policy):
    """Each message waits 0.1 s for company, and is done in time; all of them are not."""
    url = live_server(defaults={"on_failure": policy}, limits={"seconds": 0.8}, batching={"wait_ms": 100})
    messages = [user(RAG.replace("Anna", f"Anna {i}")) for i in range(20)]
    answer = httpx.post(f"{url}/v1/compress", json={"messages": messages}, timeout=20)
    if policy == "closed":
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "too_slow")
    else:
        done = answer.json()
        assert done["fallback"] == answer.headers["x-ctxcomp-fallback"] == "too_slow"
        assert done["messages"][-1] == messages[-1]
        assert done["tokens_after"] <= done["tokens_before"]


def test_it_says_why_nothing_was_taken_as_context(url):
    done = compress(url, [user("Who wrote Middlemarch?")], budget={"keep": 0.5})
    assert (done["located"], done["transforms_applied"]) == ([], [])
    assert "no context of 200 characters or more was recognised" in done["note"]
    assert compress(url, [user(RAG)], budget={"keep": 0.5})["note"] is None
    bypassed = compress(url, [user(RAG)], budget={"keep": 0.5}, headers={"x-ctxcomp-bypass": "true"})
    assert "bypassed" in bypassed["note"]
