"""LiteLLM's real proxy with its `headroom` guardrail pointed at this service.

LiteLLM and transformers need different versions of the same packages, so it runs in an environment of its own, named
by ``CTXCOMP_LITELLM_PYTHON`` or found at ``.venv-litellm/bin/python``:

    python -m venv .venv-litellm && .venv-litellm/bin/pip install 'litellm[proxy]>=1.92'
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

import httpx
from chat_upstream import ChatUpstream, chat_upstream

from ctxcomp_service.auth import hash_key

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("CTXCOMP_LITELLM_PYTHON") or ROOT / ".venv-litellm" / "bin" / "python")
LITELLM = PYTHON.parent / "litellm"

pytestmark = [
    pytest.mark.skipif(not LITELLM.exists(), reason="no LiteLLM: name its Python in CTXCOMP_LITELLM_PYTHON"),
    pytest.mark.slow,
]

START_SECONDS = 120
MASTER, PLAIN, MARKED = "sk-master", "ctxc_plain", "ctxc_marked"
FACTS = " ".join(f"The mill at Ford {i} burnt down in {1700 + i} and was rebuilt by Anna Smith {i}." for i in range(40))
QUESTION = "When did the mill at Ford 7 burn down?"
RAG = {"role": "user", "content": f"<context>\n{FACTS}\n</context>\n\n{QUESTION}"}
TURNS = [RAG, {"role": "assistant", "content": "In 1707."}, {"role": "user", "content": "Who rebuilt it?"}]


@pytest.fixture(scope="module")
def upstream():
    with chat_upstream() as found:
        yield found


@pytest.fixture(scope="module")
def service(live_server, upstream):
    keys = [
        {"id": "plain", "tenant": "a", "sha256": hash_key(PLAIN), "budget": {"keep": 0.2}},
        {"id": "marked", "tenant": "b", "sha256": hash_key(MARKED), "budget": {"keep": 0.2}, "markers": True},
    ]
    return live_server(keys=keys, upstreams={"up": {"url": f"{upstream.url}/v1"}})


@pytest.fixture(scope="module")
def proxy(service, upstream, tmp_path_factory):
    """LiteLLM's proxy: models of the upstream, one of them through our gateway, and a guardrail for each case."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port, dead = free.getsockname()[1], 9
    guardrails = {
        # First: of several headroom guardrails LiteLLM asks the first about a retrieve call, whichever was applied.
        "marked": {"api_base": service, "api_key": MARKED},
        "plain": {"api_base": service, "api_key": PLAIN},
        "wrong-key": {"api_base": service, "api_key": "ctxc_wrong"},
        "down-closed": {"api_base": f"http://127.0.0.1:{dead}"},
        "down-open": {"api_base": f"http://127.0.0.1:{dead}", "unreachable_fallback": "fail_open"},
    }
    direct = {"api_base": f"{upstream.url}/v1", "api_key": "sk-up"}
    models = {"echo": direct, "retrieve": direct, "through-gateway": {"api_base": f"{service}/v1", "api_key": PLAIN}}
    config = {
        "model_list": [
            {"model_name": n, "litellm_params": {"model": f"openai/{n}", "max_retries": 0, **to}}
            for n, to in models.items()
        ],
        "guardrails": [
            {"guardrail_name": n, "litellm_params": {"guardrail": "headroom", "mode": "pre_call", **to}}
            for n, to in guardrails.items()
        ],
        "general_settings": {"master_key": MASTER},
    }
    folder = tmp_path_factory.mktemp("litellm")
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    command = [str(LITELLM), "--config", str(folder / "config.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DATABASE_URL")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env={**clean, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        )
        try:
            _wait(f"http://127.0.0.1:{port}/health/liveliness", process, folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise RuntimeError(f"LiteLLM did not start: {log.read_text(errors='replace')[-2000:]}")


def chat(proxy: str, messages: list, guardrail: str | None, model: str = "echo", **headers: str) -> httpx.Response:
    body = {"model": model, "messages": messages, **({"guardrails": [guardrail]} if guardrail else {})}
    every = {"authorization": f"Bearer {MASTER}", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return httpx.post(f"{proxy}/v1/chat/completions", json=body, headers=every, timeout=60)


def test_context_of_earlier_turns_is_compressed_by_the_guardrail(proxy, upstream: ChatUpstream):
    answer = chat(proxy, TURNS, "plain")
    assert answer.status_code == 200, answer.text
    first, *rest = upstream.last.json["messages"]
    assert "Ford 7 burnt down in 1707" in first["content"]  # compressed for the question of its own turn
    assert first["content"].endswith(QUESTION)
    assert len(first["content"]) < len(RAG["content"]) / 3
    assert rest == TURNS[1:]
    assert "tools" not in upstream.last.json  # nothing is marked, so there is nothing to retrieve
    assert answer.headers["x-litellm-applied-guardrails"] == "plain"


def test_content_parts_keep_their_shape(proxy, upstream):
    parts = [{"type": "text", "text": RAG["content"]}]
    chat(proxy, [{"role": "user", "content": parts}, *TURNS[1:]], "plain")
    [part] = upstream.last.json["messages"][0]["content"]
    assert part["type"] == "text"
    assert len(part["text"]) < len(RAG["content"]) / 3


def test_the_bypass_header(proxy, upstream):
    assert chat(proxy, TURNS, "plain", x_headroom_bypass="true").status_code == 200
    assert upstream.last.json["messages"] == TURNS


def test_the_model_gets_the_original_back_by_the_retrieve_tool(proxy, upstream):
    upstream.received.clear()
    answer = chat(proxy, TURNS, "marked", model="retrieve")
    assert answer.status_code == 200, answer.text
    first, second = (r.json for r in upstream.received if r.path.endswith("/chat/completions"))
    assert "Full text: hash=" in first["messages"][0]["content"]
    assert [tool["function"]["name"] for tool in first["tools"]] == ["headroom_retrieve"]
    assert second["messages"][-1]["role"] == "tool"
    assert second["messages"][-1]["content"] == RAG["content"]
    assert answer.json()["choices"][0]["message"]["content"] == RAG["content"]


@pytest.mark.parametrize("guardrail", ["down-closed", "wrong-key"])
def test_a_service_that_is_down_or_refuses_the_key_stops_the_request(proxy, upstream, guardrail):
    upstream.received.clear()
    answer = chat(proxy, TURNS, guardrail)
    assert answer.status_code == 502
    assert not upstream.received
    assert ("401" in answer.text) == (guardrail == "wrong-key")


def test_fail_open_sends_the_messages_as_they_are(proxy, upstream):
    assert chat(proxy, TURNS, "down-open").status_code == 200
    assert upstream.last.json["messages"] == TURNS


def test_through_the_gateway_the_newest_message_is_compressed_too(proxy, upstream):
    """The guardrail never sends the last user message; LiteLLM in front of our gateway compresses it."""
    assert chat(proxy, [RAG], "plain").status_code == 200
    assert upstream.last.json["messages"] == [RAG]
    answer = chat(proxy, [RAG], None, model="through-gateway")
    assert answer.status_code == 200, answer.text
    [sent] = upstream.last.json["messages"]
    assert "Ford 7 burnt" in sent["content"]
    assert len(sent["content"]) < len(RAG["content"]) / 3
    assert PLAIN not in str(upstream.last.headers)
