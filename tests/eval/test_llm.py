"""Against a real server on the loopback: it reads the posted prompt and answers with a word of its context."""

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ctxcomp.errors import InputError, ModelError
from ctxcomp.progress import listen
from ctxcomp_eval import llm
from ctxcomp_eval.llm import ChatModel, endpoint

QUESTIONS = ["Who wrote it?", "Who sang it?", "Who built it?"]
CONTEXTS = ["It was by Austen in 1813.", "It was by Nina.", "It was by Brunel, they say."]


class Handler(BaseHTTPRequestHandler):
    """Behaves as ``server.script`` says for the next request, and as a good server when it is empty."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.seen.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
            act = server.script.pop(0) if server.script else server.default
        try:
            answer = act(body)
        finally:  # before the answer is out: a client that has it may ask again
            with server.lock:
                server.busy -= 1
        self.reply(*answer)

    def reply(self, status, payload, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *_):
        """Clients that have gone are part of these tests."""


def completion(text, why="stop"):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": why}
    return json.dumps({"object": "chat.completion", "choices": [choice]}).encode()


def good(body):
    """The word after "by" in the posted context."""
    context = re.search(r"Context:\n(.*)\n\nQuestion: ", body["messages"][-1]["content"], re.DOTALL)[1]
    found = re.search(r"by (\w+)", context)[1]
    return 200, completion(f" {found}\n")


def says(status, payload, *headers):
    return lambda _: (status, payload, headers)


@pytest.fixture
def server():
    made = Server(("127.0.0.1", 0), Handler)
    made.lock, made.seen, made.script, made.default = threading.Lock(), [], [], good
    made.busy = made.most_busy = 0
    made.url = f"http://127.0.0.1:{made.server_port}"
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def chat(server, **fields):
    return ChatModel(server.url, "tiny", **{"key": "", "pause": 0.01, "timeout": 5.0, **fields})


def test_answers_in_order_with_the_context_in_the_prompt(server):
    assert chat(server).answer(QUESTIONS, CONTEXTS) == ["Austen", "Nina", "Brunel"]
    assert len(server.seen) == 3
    assert {request["path"] for request in server.seen} == {"/v1/chat/completions"}
    assert all(request["temperature"] == 0 and request["model"] == "tiny" for request in server.seen)
    asked = {request["messages"][-1]["content"] for request in server.seen}
    assert all(any(q in text and c in text for text in asked) for q, c in zip(QUESTIONS, CONTEXTS, strict=True))


def test_braces_and_any_unicode_arrive_as_they_are(server):
    context = 'by Ωmega: {context} {0} "quoted" \\ 日本 🙂'
    assert chat(server).answer(["{question}?"], [context]) == ["Ωmega"]
    text = server.seen[0]["messages"][-1]["content"]
    assert context in text
    assert "{question}?" in text


def test_no_questions_and_blank_contexts_send_nothing(server):
    assert chat(server).answer([], []) == []
    assert chat(server).answer(["Who?", "Who?"], ["", " \n"]) == ["", ""]
    assert server.seen == []


def test_key_from_the_argument_then_the_environment_then_none(server, monkeypatch):
    monkeypatch.delenv("CTXCOMP_LLM_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    chat(server, key=None).answer(["?"], ["by A"])
    monkeypatch.setenv("OPENAI_API_KEY", "second")
    chat(server, key=None).answer(["?"], ["by A"])
    monkeypatch.setenv("CTXCOMP_LLM_KEY", "first")
    chat(server, key=None).answer(["?"], ["by A"])
    chat(server, key="given").answer(["?"], ["by A"])
    chat(server, key="").answer(["?"], ["by A"])
    assert [r["key"] for r in server.seen] == [None, "Bearer second", "Bearer first", "Bearer given", None]


def test_the_key_is_in_no_message_and_no_repr(server):
    model = chat(server, key="sk-secret", retries=0)
    server.script = [says(401, b'{"error": {"message": "bad key"}}')]
    with pytest.raises(ModelError, match=r"status 401.*bad key") as raised:
        model.answer(["?"], ["by A"])
    assert "sk-secret" not in repr(model) + str(raised.value)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_retried_until_it_passes(server, status):
    server.script = [says(status, b"busy"), says(status, b"busy")]
    assert chat(server).answer(["Who?"], ["by Austen"]) == ["Austen"]
    assert len(server.seen) == 3


def test_retries_end_with_what_the_server_said(server):
    server.default = says(500, b"out of memory")
    with pytest.raises(ModelError, match="status 500: 'out of memory', after 3 tries"):
        chat(server, retries=2).answer(["Who?"], ["by Austen"])
    assert len(server.seen) == 3


def test_retry_after_is_heeded_up_to_a_limit(server, monkeypatch):
    server.script = [says(429, b"", ("Retry-After", "0.3"))]
    began = time.perf_counter()
    chat(server).answer(["Who?"], ["by Austen"])
    assert time.perf_counter() - began >= 0.3
    monkeypatch.setattr(llm, "LONGEST_WAIT", 0.05)
    server.script = [says(429, b"", ("Retry-After", "3600")), says(503, b"", ("Retry-After", "tomorrow"))]
    assert chat(server).answer(["Who?"], ["by Austen"]) == ["Austen"]


@pytest.mark.parametrize("status", [400, 401, 404, 308])
def test_other_statuses_are_not_retried(server, status):
    server.script = [says(status, b"no such model", ("Location", f"{server.url}/elsewhere"))]
    with pytest.raises(ModelError, match=f"status {status}"):
        chat(server).answer(["Who?"], ["by Austen"])
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "payload", [b"<html>hello</html>", b"{}", b"[]", b'{"choices": []}', b'{"choices": [{"message": null}]}', b""]
)
def test_what_is_no_completion_is_shown(server, payload):
    server.script = [says(200, payload)]
    with pytest.raises(ModelError, match="no chat completion") as raised:
        chat(server).answer(["Who?"], ["by Austen"])
    assert payload.decode() in str(raised.value)


def test_no_text_is_an_error_and_a_filtered_one_an_empty_answer(server):
    server.script = [says(200, completion(None, "content_filter"))]
    assert chat(server).answer(["Who?"], ["by Austen"]) == [""]
    server.script = [says(200, completion(None, "tool_calls"))]
    with pytest.raises(ModelError, match=r"no text.*tool_calls"):
        chat(server).answer(["Who?"], ["by Austen"])


def test_thoughts_are_cut_off(server):
    server.script = [says(200, completion("<think>by\nwhom?</think>\n\nAusten"))]
    assert chat(server).answer(["Who?"], ["by Austen"]) == ["Austen"]
    server.script = [says(200, completion("<think>it may be that", "length"))]
    with pytest.raises(ModelError, match="raise max_tokens"):
        chat(server).answer(["Who?"], ["by Austen"])


def test_a_silent_server_times_out(server):
    release = threading.Event()
    server.default = lambda body: (release.wait(5), good(body))[1]
    try:
        with pytest.raises(ModelError, match=r"nothing came for 0\.1 s.*after 2 tries"):
            chat(server, timeout=0.1, retries=1).answer(["Who?"], ["by Austen"])
    finally:
        release.set()


def test_a_lost_connection_is_retried(server):
    class HangUpError(Exception):
        pass

    def hang_up(_):
        raise HangUpError

    server.script = [hang_up]
    assert chat(server).answer(["Who?"], ["by Austen"]) == ["Austen"]
    assert len(server.seen) == 2


def test_nobody_there():
    with pytest.raises(ModelError, match=r"http://127\.0\.0\.1:9/v1/chat/completions: no answer.*after 2 tries"):
        ChatModel("http://127.0.0.1:9", "tiny", key="", retries=1, pause=0.0).answer(["Who?"], ["by Austen"])


def test_concurrency_is_bounded_and_used(server):
    def slow(body):
        time.sleep(0.05)
        return good(body)

    server.default = slow
    names = [f"n{i}" for i in range(12)]
    assert chat(server, parallel=3).answer(["Who?"] * 12, [f"by {name}" for name in names]) == names
    assert server.most_busy == 3


def test_a_failure_stops_the_rest(server):
    server.script = [says(401, b"bad key")]
    with pytest.raises(ModelError, match="401"):
        chat(server, parallel=1).answer(["Who?"] * 50, ["by Austen"] * 50)
    assert len(server.seen) == 1


def test_progress_is_told(server):
    seen = []
    with listen(lambda done, total: seen.append((done, total))):
        chat(server).answer(QUESTIONS, CONTEXTS)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_body_adds_replaces_and_leaves_out(server):
    chat(server, body={"max_tokens": None, "max_completion_tokens": 9, "temperature": 0.5}).answer(["?"], ["by A"])
    assert "max_tokens" not in server.seen[0]
    assert (server.seen[0]["max_completion_tokens"], server.seen[0]["temperature"]) == (9, 0.5)


@pytest.mark.parametrize(
    ("url", "full"),
    [
        ("http://h:1", "http://h:1/v1/chat/completions"),
        ("http://h:1/", "http://h:1/v1/chat/completions"),
        ("http://h/v1/", "http://h/v1/chat/completions"),
        ("https://h/api/v1", "https://h/api/v1/chat/completions"),
        ("https://h/v1beta/openai/", "https://h/v1beta/openai/chat/completions"),
        ("https://h/llm", "https://h/llm/v1/chat/completions"),
        ("https://h/d/x/chat/completions?api-version=1", "https://h/d/x/chat/completions?api-version=1"),
    ],
)
def test_endpoint(url, full):
    assert endpoint(url) == full


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", "", "http://"])
def test_what_is_no_url(url):
    with pytest.raises(InputError, match="a server's URL is like"):
        ChatModel(url, "tiny")


@pytest.mark.parametrize("fields", [{"timeout": 0}, {"parallel": 0}, {"retries": -1}, {"pause": -1}, {"model": ""}])
def test_fields_out_of_range(fields):
    with pytest.raises(InputError, match="must"):
        ChatModel(**{"url": "http://h", "model": "tiny", **fields})


def test_as_many_contexts_as_questions(server):
    with pytest.raises(InputError, match="1 questions and 2 contexts"):
        chat(server).answer(["Who?"], ["by A", "by B"])


def test_name():
    assert ChatModel("http://h", "org/tiny").name == "llm:org/tiny"
