"""The real openai client through the gateway, against a real model under `transformers serve` and a scripted server."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")
pytest.importorskip("openai")

import httpx
import openai
from chat_upstream import chat_upstream

from ctxcomp_service.auth import hash_key

KEY = "ctxc_client"
START_SECONDS = 120
FACTS = " ".join(f"The mill at Ford {i} burnt down in {1700 + i} and was rebuilt by Anna Smith {i}." for i in range(30))
QUESTION = "When did the mill at Ford 7 burn down?"
RAG = [{"role": "user", "content": f"<context>\n{FACTS}\n</context>\n\n{QUESTION}"}]
BUDGET = {"ctxcomp": {"budget": {"tokens": 60}}}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A tiny Llama under `transformers serve`, offline."""
    for name in ("torch", "transformers", "accelerate"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"transformers serve needs {name}")
    from tiny_chat import tiny_chat

    folder = tmp_path_factory.mktemp("serve")
    tiny_chat(folder / "tiny")
    (folder / "hub").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", "tiny"]
    command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "HF_HUB_CACHE": str(folder / "hub")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **offline})
        try:
            _wait(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}/v1"
        except RuntimeError as error:
            raise RuntimeError(f"{error}: {(folder / 'log').read_text(errors='replace')[-2000:]}") from None
        finally:
            process.terminate()
            process.wait(20)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise RuntimeError("transformers serve did not start")


@pytest.fixture(scope="module")
def scripted():
    with chat_upstream() as found:
        yield found


@pytest.fixture(scope="module")
def gateway(scripted, live_server):
    keys = [{"id": "k", "tenant": "t", "sha256": hash_key(KEY)}]
    return live_server(keys=keys, upstreams={"scripted": {"url": f"{scripted.url}/v1", "read_seconds": 1.0}})


@pytest.fixture(scope="module")
def client(gateway):
    with openai.OpenAI(base_url=f"{gateway}/v1", api_key=KEY, max_retries=0) as found:
        yield found


# A real model


@pytest.mark.slow
def test_a_real_model_behind_the_gateway(served, live_server):
    url = live_server(upstreams={"local": {"url": served, "read_seconds": 60}})
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as through,
        openai.OpenAI(base_url=served, api_key="none", max_retries=0) as direct,
    ):
        wanted = {"model": "tiny", "messages": RAG, "max_tokens": 12, "temperature": 0}
        plain = direct.chat.completions.create(**wanted)
        bypassed = through.chat.completions.create(**wanted, extra_headers={"x-ctxcomp-bypass": "true"})
        assert bypassed.choices == plain.choices
        assert bypassed.usage == plain.usage
        raw = through.chat.completions.with_raw_response.create(**wanted, extra_body=BUDGET)
        shorter = raw.parse()
        assert shorter.usage.completion_tokens == 12
        saved = plain.usage.prompt_tokens - shorter.usage.prompt_tokens
        assert saved > plain.usage.prompt_tokens / 2  # the model itself read less
        assert 0 < int(raw.headers["x-ctxcomp-tokens-saved"]) < saved  # of this model one token is one byte

        pieces = list(through.chat.completions.create(**wanted, extra_body=BUDGET, stream=True))
        text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
        assert text == shorter.choices[0].message.content
        assert len(text) > 5
        asyncio.run(_several(f"{url}/v1", wanted, text))


async def _several(base_url: str, wanted: dict, expected: str) -> None:
    """Streams at the same time, each with the text it would have alone."""

    async def one(client: openai.AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(**wanted, extra_body=BUDGET, stream=True)
        return "".join([p.choices[0].delta.content or "" async for p in stream if p.choices])

    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        assert await asyncio.gather(*(one(client) for _ in range(4))) == [expected] * 4


# What the client sees of everything else


def test_answers_and_streams(client, scripted):
    answer = client.chat.completions.create(model="echo", messages=RAG, extra_body=BUDGET)
    text = answer.choices[0].message.content
    assert "Ford 7 burnt down in 1707" in text
    assert len(text) < len(FACTS) / 3
    assert answer.usage.total_tokens == 5
    stream = client.chat.completions.create(model="echo", messages=RAG, extra_body=BUDGET, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in stream) == text
    assert KEY not in str(scripted.last.headers)


def test_async_answers_and_streams(gateway):
    async def run() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{gateway}/v1", api_key=KEY, max_retries=0) as client:
            answer = await client.chat.completions.create(model="echo", messages=RAG, extra_body=BUDGET)
            async with client.chat.completions.stream(model="echo", messages=RAG, extra_body=BUDGET) as stream:
                async for _ in stream:
                    pass
                final = await stream.get_final_completion()
            return answer.choices[0].message.content, final.choices[0].message.content

    text, streamed = asyncio.run(run())
    assert "Ford 7 burnt" in text
    assert streamed == text


def test_tools(client, scripted):
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Zürich"}'}}
    history = [
        {"role": "user", "content": "How warm is it?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": FACTS},
        {"role": "user", "content": QUESTION},
    ]
    answer = client.chat.completions.create(
        model="tool", messages=history, tools=[TOOL], tool_choice="auto", parallel_tool_calls=False, extra_body=BUDGET
    )
    [made] = answer.choices[0].message.tool_calls
    assert (made.function.name, made.function.arguments) == ("weather", '{"city": "Zürich"}')
    sent = scripted.last.json
    assert sent["tools"] == [TOOL]
    assert (sent["tool_choice"], sent["parallel_tool_calls"]) == ("auto", False)
    assert [sent["messages"][i] for i in (0, 1, 3)] == [history[i] for i in (0, 1, 3)]
    assert len(sent["messages"][2]["content"]) < len(FACTS) / 3
    assert sent["messages"][2]["tool_call_id"] == "c1"


def test_images(client, scripted):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "high"}}
    content = [image, {"type": "text", "text": RAG[0]["content"]}, image]
    client.chat.completions.create(model="echo", messages=[{"role": "user", "content": content}], extra_body=BUDGET)
    sent = scripted.last.json["messages"][0]["content"]
    assert sent[0] == sent[2] == image
    assert len(sent[1]["text"]) < len(FACTS) / 3


def test_models(client):
    assert [model.id for model in client.models.list()] == ["echo", "slow", "unlisted"]
    assert client.models.retrieve("slow").owned_by == "tests"


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("status-400", "BadRequestError"),
        ("status-401", "AuthenticationError"),
        ("status-404", "NotFoundError"),
        ("status-429", "RateLimitError"),
        ("status-503", "InternalServerError"),
        ("html", "InternalServerError"),
        ("hang", "InternalServerError"),
    ],
)
def test_errors_are_the_clients_own(client, model, kind):
    with pytest.raises(getattr(openai, kind)) as caught:
        client.chat.completions.create(model=model, messages=RAG)
    if model.startswith("status"):
        assert caught.value.code == "asked_for"
    else:
        assert caught.value.type in ("upstream_error", "timeout_error")


def test_a_wrong_key(gateway):
    with openai.OpenAI(base_url=f"{gateway}/v1", api_key="ctxc_wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.chat.completions.create(model="echo", messages=RAG)
        assert caught.value.code == "wrong_key"


def test_a_field_of_ours_that_is_wrong(client):
    with pytest.raises(openai.UnprocessableEntityError, match="budget"):
        client.chat.completions.create(model="echo", messages=RAG, extra_body={"ctxcomp": {"budget": {"keep": 7}}})


@pytest.mark.parametrize("model", ["stall", "break-between", "break-inside"])
def test_a_stream_that_fails_is_an_error_for_the_client(client, model):
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "one two three four five six"}], stream=True
    )
    with pytest.raises((openai.APIError, httpx.RemoteProtocolError)):
        list(stream)
