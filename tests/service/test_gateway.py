"""The gateway against a real server that records, errs, stalls and lies."""

from __future__ import annotations

import json
import socket
import time

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

import httpx
from chat_upstream import ChatUpstream, chat_upstream

from ctxcomp_service.auth import hash_key
from ctxcomp_service.rawjson import elements, read_object

KEY = "ctxc_the-only-key"
FACTS = " ".join(f"The mill at Ford {i} burnt down in {1700 + i} and was rebuilt by Anna Smith {i}." for i in range(30))
QUESTION = "When did the mill at Ford 7 burn down?"
RAG = f"<context>\n{FACTS}\n</context>\n\n{QUESTION}"
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}}


@pytest.fixture(scope="module")
def upstream():
    with chat_upstream() as found:
        yield found


@pytest.fixture(autouse=True)
def fresh(upstream: ChatUpstream):
    upstream.received.clear()
    upstream.left.clear()
    upstream.gate.clear()


@pytest.fixture(scope="module")
def gateway(upstream, live_server):
    """An open gateway before one upstream that serves all models."""
    return live_server(upstreams={"up": {"url": f"{upstream.url}/v1", "api_key": "sk-up", "read_seconds": 1.0}})


@pytest.fixture(scope="module")
def locked(upstream, live_server):
    """A gateway with a key, before an upstream that gets the client's own Authorization."""
    keys = [{"id": "k", "tenant": "t", "sha256": hash_key(KEY)}]
    return live_server(keys=keys, upstreams={"up": {"url": f"{upstream.url}/v1", "pass_authorization": True}})


def chat(url: str, body: object = None, *, headers: dict[str, str] | None = None, **fields) -> httpx.Response:
    """One completion; fields are members of the body."""
    given = {"model": "echo", "messages": [user("Hello")], **fields}
    content = body if isinstance(body, bytes) else json.dumps(given).encode()
    every = {"content-type": "application/json", **(headers or {})}
    return httpx.post(f"{url}/v1/chat/completions", content=content, headers=every, timeout=20)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# What goes through


def test_context_is_shorter_upstream_and_the_headers_say_so(gateway, upstream):
    answer = chat(gateway, messages=[user(RAG)], ctxcomp={"budget": {"tokens": 60}})
    sent = upstream.last.json["messages"][0]["content"]
    assert "Ford 7 burnt down in 1707" in sent
    assert sent.startswith("<context>")
    assert sent.endswith(QUESTION)
    assert len(sent) < len(RAG) / 3
    n, out = (int(answer.headers[f"x-ctxcomp-tokens-{side}"]) for side in ("in", "out"))
    assert n > out > 0
    assert int(answer.headers["x-ctxcomp-tokens-saved"]) == n - out
    assert answer.headers["x-ctxcomp-method"] == "bm25"
    assert answer.headers["x-ctxcomp-located"] == "messages[0]: tag <context>"
    assert "x-ctxcomp-fallback" not in answer.headers  # the upstream forged one
    assert answer.json()["unknown_field"] == {"kept": True}


@pytest.mark.parametrize("header", ["x-ctxcomp-bypass", "x-headroom-bypass"])
def test_a_bypassed_body_is_the_same_bytes(gateway, upstream, header):
    text = RAG.encode().replace(b"\n", b"\\n")
    body = b' {"x":1.50,  "model" :"echo","messages":[{"content":"' + text + b'"}],"y":"\\u00e9"}\n'
    answer = chat(gateway, body, headers={header: "true"})
    assert answer.status_code == 200
    assert upstream.last.body == body
    assert answer.headers["x-ctxcomp-bypass"] == "true"
    assert "x-ctxcomp-tokens-in" not in answer.headers


def test_nothing_found_is_the_same_bytes_too(gateway, upstream):
    body = b'{"model":"echo","messages": [ {"role":"user","content":"hello"} ], "top_p":0.10}'
    assert chat(gateway, body).headers["x-ctxcomp-located"] == "nothing"
    assert upstream.last.body == body


def test_everything_else_goes_on_to_the_character(gateway, upstream):
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{ "a" :1.0}'}}
    messages = [
        {"role": "system", "content": f"Use this context: {FACTS}"},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "c1", "content": "short"},
        {"role": "user", "name": "Zoë", "content": [{"type": "text", "text": RAG, "cache_control": {"a": 1}}, IMAGE]},
        {"role": "user", "content": "naïve 😀 \ud83d"},
        {"role": "user", "content": "Well?"},
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "x": [1e-7, 10**30]}}}]
    text = json.dumps({"messages": messages, "tools": tools, "model": "echo", "future": {"b": [None]}}, indent=2)
    answer = chat(gateway, text.encode())
    assert answer.status_code == 200
    came, went = read_object(text.encode()), read_object(upstream.last.body)
    assert list(came.texts) == list(went.texts)
    assert all(came.texts[name] == went.texts[name] for name in came.texts if name != "messages")
    before, after = elements(came.texts["messages"]), elements(went.texts["messages"])
    assert [i for i in range(6) if before[i] != after[i]] == [3]
    new = json.loads(after[3])
    assert new["content"][1] == IMAGE
    assert new["name"] == "Zoë"
    assert new["content"][0]["cache_control"] == {"a": 1}
    assert len(new["content"][0]["text"]) < len(RAG)


def test_our_own_fields_stay_here(gateway, upstream):
    parts = [{"type": "text", "text": FACTS, "ctxcomp": "context"}, {"type": "text", "text": QUESTION}]
    marked = {"role": "user", "content": parts}
    chat(gateway, messages=[marked], ctxcomp={"budget": {"tokens": 60}})
    assert b"ctxcomp" not in upstream.last.body
    assert "Ford 7 burnt" in upstream.last.json["messages"][0]["content"][0]["text"]
    assert len(upstream.last.body) < len(FACTS)
    answer = chat(gateway, messages=[marked], ctxcomp=False)
    assert answer.headers["x-ctxcomp-bypass"] == "true"
    assert b"ctxcomp" not in upstream.last.body
    assert upstream.last.json["messages"][0]["content"][0] == {"type": "text", "text": FACTS}


def test_the_beginning_of_a_conversation_is_the_same_on_every_turn(gateway, upstream):
    turns = [user(RAG)]
    sent = []
    for i in range(4):
        chat(gateway, messages=turns, ctxcomp={"budget": {"keep": 0.3}, "query": f"About Ford {i}?"} if i % 2 else {})
        sent.append(elements(read_object(upstream.last.body).texts["messages"]))
        tool = {"role": "tool", "tool_call_id": f"c{i}", "content": FACTS.replace("Ford", f"Glen {i}")}
        turns = [*turns, {"role": "assistant", "content": f"It was in 17{i:02}."}, tool, user(f"{RAG} And Ford {i}?")]
        turns = [*turns, {"role": "assistant", "content": "Yes."}, user("Thanks. And the one at Ford 9?")]
    same_budget = sent[0::2], sent[1::2]
    for early, late in same_budget:
        assert late[: len(early) - 1] == early[:-1]
        assert early[:-1] == [] or len(late) > len(early)
    assert len(json.loads(sent[2][2])["content"]) < len(FACTS)


def test_context_that_the_client_names(gateway, upstream):
    text = f"{QUESTION} {FACTS} Answer in one word."
    chat(gateway, messages=[user(text)], ctxcomp={"context": [FACTS], "budget": {"tokens": 40}})
    sent = upstream.last.json["messages"][0]["content"]
    assert sent.startswith(QUESTION)
    assert sent.endswith(" Answer in one word.")
    assert "Ford 7 burnt" in sent
    assert len(sent) < 300
    assert error_of(chat(gateway, messages=[user("hi")], ctxcomp={"context": ["bye"]})) == (422, "context_not_found")


# Headers, keys and addresses


def test_only_listed_headers_go_through(gateway, upstream):
    given = {"authorization": "Bearer client", "cookie": "a=b", "x-forwarded-for": "1.2.3.4", "x-secret": "s"}
    given |= {"openai-organization": "org", "traceparent": "00-1", "idempotency-key": "i"}
    answer = chat(gateway, headers=given)
    sent = upstream.last.headers
    assert sent["authorization"] == "Bearer sk-up"
    assert (sent["traceparent"], sent["idempotency-key"]) == ("00-1", "i")
    assert not {"cookie", "x-forwarded-for", "x-secret", "openai-organization"} & set(sent)
    assert answer.headers["x-upstream-request-id"] == "up-1"
    assert answer.headers["x-ratelimit-remaining-tokens"] == "7"
    assert not {"set-cookie", "www-authenticate", "access-control-allow-origin"} & set(answer.headers)
    chat(gateway)
    assert "cookie" not in upstream.last.headers  # the upstream's own, from the answer before


def test_the_clients_authorization_goes_on_only_if_it_is_not_our_key(locked, upstream):
    assert error_of(chat(locked)) == (401, "no_key")
    assert error_of(chat(locked, headers={"authorization": "Bearer wrong"})) == (401, "wrong_key")
    assert not upstream.received
    chat(locked, headers={"authorization": f"Bearer {KEY}"})
    assert "authorization" not in upstream.last.headers
    chat(locked, headers={"x-api-key": KEY, "authorization": "Bearer sk-theirs"})
    assert upstream.last.headers["authorization"] == "Bearer sk-theirs"
    assert KEY not in str(upstream.received)


@pytest.mark.parametrize(
    "model",
    [
        "http://127.0.0.1:1/",
        "../../admin",
        "up/../../x",
        "up/http://evil/",
        "up/?q#f",
        "@evil",
        "a\r\nHost: evil",
        "\\\\evil",
        "%2e%2e/admin",
    ],
)
def test_a_models_name_never_becomes_an_address(gateway, upstream, model):
    chat(gateway, model=model)
    assert {(r.path, r.headers["host"]) for r in upstream.received} == {
        ("/v1/chat/completions", upstream.url.removeprefix("http://"))
    }
    assert upstream.last.json["model"] == model.removeprefix("up/")


def test_redirects_are_not_followed(gateway, upstream):
    answer = chat(gateway, model="redirect")
    assert error_of(answer) == (502, "upstream_redirects")
    assert "location" not in answer.headers
    assert [r.path for r in upstream.received] == ["/v1/chat/completions"]


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 50\r\n",
        b"X-A: b\rX-B: c\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nX-A : smuggled\r\n",
    ],
)
def test_smuggled_requests_are_refused(gateway, upstream, head):
    host, port = gateway.removeprefix("http://").split(":")
    hidden = b"POST /v1/chat/completions HTTP/1.1\r\nHost: evil\r\nContent-Length: 0\r\n\r\n"
    with socket.create_connection((host, int(port)), 5) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            + head + b"\r\n0\r\n\r\n" + hidden
        )  # fmt: skip
        client.settimeout(5)
        assert b" 400 " in client.recv(65536).partition(b"\r\n")[0]
    assert not upstream.received


# Requests that are no requests


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "malformed_json")),
        (b"[]", (400, "malformed_json")),
        (b'{"model":"echo","messages":[]', (400, "malformed_json")),
        (b'{"model":"echo","model":"other","messages":[]}', (400, "malformed_json")),
        (b'{"model":"echo","messages":[],"x":NaN}', (400, "malformed_json")),
        (b'{"model":"echo","messages":[],"x":1e999}', (400, "malformed_json")),
        (b'{"model":"echo","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", (400, "malformed_json")),
        (b'{"model":"\xff","messages":[]}', (400, "malformed_json")),
        (b'{"messages":[]}', (422, "invalid_field")),
        (b'{"model":7,"messages":[]}', (422, "invalid_field")),
        (b'{"model":"echo","messages":"hi"}', (422, "invalid_input")),
        (b'{"model":"echo"}', (422, "invalid_input")),
        (b'{"model":"echo","messages":["hi"]}', (422, "invalid_input")),
        (b'{"model":"echo","messages":[],"ctxcomp":{"budgt":1}}', (422, "invalid_field")),
        (b'{"model":"echo","messages":[],"ctxcomp":{"method":"nothing"}}', (422, "invalid_input")),
        (b'{"model":"echo","messages":[],"ctxcomp":{"options":{"model":"/etc"}}}', (422, "invalid_input")),
    ],
)
def test_what_cannot_be_read_is_refused_here(gateway, upstream, body, expected):
    assert error_of(chat(gateway, body)) == expected
    assert not upstream.received


def test_a_form_from_a_page_elsewhere_is_refused(gateway, upstream):
    answer = chat(gateway, b'{"model":"echo","messages":[]}', headers={"content-type": "text/plain"})
    assert error_of(answer) == (400, "content_type")
    assert not upstream.received


def test_a_huge_body_is_refused(gateway, upstream):
    body = b'{"model":"echo","messages":[{"role":"user","content":"' + b"x" * 5_000_000 + b'"}]}'
    assert error_of(chat(gateway, body)) == (413, "body_too_large")
    assert not upstream.received


def test_no_upstream_for_a_model(upstream, live_server):
    url = live_server(upstreams={"one": {"url": f"{upstream.url}/v1", "models": ["echo", "gpt-*"]}})
    assert error_of(chat(url, model="claude")) == (404, "model_not_found")
    assert chat(url, model="gpt-9").status_code == 200
    assert chat(url, model="one/claude").json()["model"] == "claude"


# Upstreams that fail


@pytest.mark.parametrize("status", [400, 401, 402, 404, 418, 429, 500, 503])
def test_an_upstreams_error_passes_through(gateway, status):
    answer = chat(gateway, model=f"status-{status}")
    assert answer.status_code == status
    assert answer.json() == {"error": {"message": "as you wish", "type": "tests", "code": "asked_for"}}
    assert answer.headers["retry-after"] == "3"
    assert answer.headers["x-ctxcomp-upstream"] == "up"


@pytest.mark.parametrize("model", ["html", "not-json"])
def test_an_answer_that_is_no_json_is_an_error(gateway, model):
    assert error_of(chat(gateway, model=model)) == (502, "upstream_not_json")


def test_an_error_page_does_not_become_a_page_of_ours(gateway):
    answer = chat(gateway, model="html-error")
    assert (answer.status_code, answer.text) == (502, "<h1>Bad gateway</h1>")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_an_upstream_that_is_not_there(live_server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = live_server(upstreams={"up": {"url": f"http://127.0.0.1:{taken.getsockname()[1]}/v1"}})
        answer = chat(url)
    assert error_of(answer) == (502, "upstream_unreachable")
    assert "127.0.0.1" not in answer.text
    assert error_of(httpx.get(f"{url}/v1/models")) == (502, "upstream_unreachable")


def test_an_upstream_that_does_not_answer(gateway, upstream):
    began = time.monotonic()
    assert error_of(chat(gateway, model="hang")) == (504, "upstream_timeout")
    assert time.monotonic() - began < 5
    assert upstream.left.wait(5)


@pytest.mark.parametrize("model", ["stall", "break-between"])
def test_a_stream_that_fails_between_events_ends_with_an_error(gateway, model):
    answer = chat(gateway, model=model, messages=[user("one two three four five six")], stream=True)
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert json.loads(events[-2])["choices"][0]["delta"]["content"] == " three "
    error = json.loads(events[-1])["error"]
    assert error["code"] == {"stall": "upstream_timeout", "break-between": "upstream_failed"}[model]
    assert "[DONE]" not in answer.text


def test_a_stream_that_breaks_inside_an_event_breaks_off(gateway):
    with pytest.raises(httpx.RemoteProtocolError):
        chat(gateway, model="break-inside", messages=[user("one two three four five six")], stream=True)


# Streams


def test_events_arrive_when_they_are_sent(gateway, upstream):
    body = {"model": "gated", "messages": [user("one two three four five six")], "stream": True}
    with httpx.stream("POST", f"{gateway}/v1/chat/completions", json=body, timeout=10) as answer:
        lines = answer.iter_lines()
        seen = ""
        while " three " not in seen:  # the second piece: the third is not sent before the gate opens
            seen += next(lines)
        assert "four fi" not in seen
        upstream.gate.set()
        rest = "".join(lines)
    assert rest.endswith("data: [DONE]")
    assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(("model", "stream"), [("gated", True), ("hang", False)])
def test_a_client_that_leaves_takes_the_upstream_with_it(live_server, upstream, model, stream):
    url = live_server(upstreams={"up": {"url": f"{upstream.url}/v1", "read_seconds": 60}})
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"model": model, "messages": [user("one two three four five")], "stream": stream}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port)), 5) as client:
        client.sendall(head.encode() + body)
        deadline = time.monotonic() + 5
        while not upstream.received and time.monotonic() < deadline:
            time.sleep(0.01)
        if stream:
            assert b"200 OK" in client.recv(100)
        assert not upstream.left.is_set()
    assert upstream.left.wait(5)


# Failure policy and models


@pytest.mark.parametrize("policy", ["closed", "input"])
def test_failure_policy(upstream, live_server, tmp_path, policy):
    url = live_server(
        defaults={"on_failure": policy},
        methods={"bm25": {}, "broken": {"method": "embedding_select", "fields": {"model": str(tmp_path)}}},
        upstreams={"up": {"url": f"{upstream.url}/v1"}},
    )
    answer = chat(url, messages=[user(RAG)], ctxcomp={"method": "broken"})
    if policy == "closed":
        assert error_of(answer) == (503, "method_unavailable")
        assert not upstream.received
    else:
        assert answer.headers["x-ctxcomp-fallback"] == "method_unavailable"
        assert upstream.last.json["messages"] == [user(RAG)]


def test_models_of_all_upstreams(upstream, live_server):
    url = live_server(
        upstreams={
            "one": {"url": f"{upstream.url}/v1", "models": ["echo", "private"], "api_key": "k1"},
            "two": {"url": f"{upstream.url}/v1", "api_key": "k2"},
            "gone": {"url": "http://127.0.0.1:9/v1", "models": ["x-*"]},
        }
    )
    answer = httpx.get(f"{url}/v1/models")
    assert [m["id"] for m in answer.json()["data"]] == ["echo", "private", "two/echo", "slow", "unlisted"]
    assert answer.headers["x-ctxcomp-incomplete"] == "gone"
    assert httpx.get(f"{url}/v1/models/two/echo").json()["id"] == "two/echo"
    assert httpx.get(f"{url}/v1/models/nothing").status_code == 404
    for model, key, name in [("echo", "k1", "echo"), ("two/echo", "k2", "echo"), ("slow", "k2", "slow")]:
        chat(url, model=model)
        assert upstream.last.headers["authorization"] == f"Bearer {key}"
        assert upstream.last.json["model"] == name
