"""The real openai client, decorated, against a real HTTP server on loopback that records what reaches it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time

import pytest
from prompt_cases import BEES, GLASS, RIVER, Q

from ctxcomp import compress_context, load

openai = pytest.importorskip("openai")
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

PROMPT = f"Sources:\n[1] {RIVER}\n\n[2] {GLASS}\n\n[3] {BEES}\n\nQuestion: {Q}"
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
shorter = compress_context(messages="messages", tokens=30, compressor=load("bm25", counter="minilm"))


def chat_app(requests):
    """Speaks chat completions: answers with the number of characters that it got, streamed on request."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route

    def part(delta, finish=None):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}

    async def chat(request):
        body = await request.json()
        requests.append(body)
        answer = f"got {len(json.dumps(body['messages']))}"
        if body.get("stream"):
            parts = [*(part({"content": word}) for word in answer.split(" ")), part({}, "stop")]
            lines = [f"data: {json.dumps(one)}\n\n" for one in parts] + ["data: [DONE]\n\n"]
            return StreamingResponse(iter(lines), media_type="text/event-stream")
        choice = {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
        return JSONResponse({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


@pytest.fixture(scope="module")
def upstream():
    requests: list[dict] = []
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(chat_app(requests), log_level="error", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", requests
    server.should_exit = True
    thread.join()
    listener.close()


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": PROMPT}, IMAGE]},
]


def check(request):
    system, user = request["messages"]
    assert system == MESSAGES[0]
    assert user["content"][1] == IMAGE
    assert user["content"][0]["text"].startswith("Sources:\n[3] A worker bee")
    assert user["content"][0]["text"].endswith(f"Question: {Q}")
    assert request["temperature"] == 0.5


def test_sync_and_streamed(upstream):
    url, requests = upstream
    with openai.OpenAI(base_url=url, api_key="none") as client:
        create = shorter(client.chat.completions.create)
        answer = create(model="m", messages=MESSAGES, temperature=0.5)
        check(requests[-1])
        assert answer.choices[0].message.content.startswith("got ")
        stream = create(model="m", messages=MESSAGES, temperature=0.5, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream).startswith("got")
        check(requests[-1])
        create(model="m", messages=MESSAGES, ctxcomp_bypass=True)
        assert requests[-1]["messages"] == MESSAGES
        assert set(requests[-1]) == {"model", "messages"}
    assert MESSAGES[1]["content"][0]["text"] == PROMPT


def test_async_and_streamed(upstream):
    url, requests = upstream

    async def run():
        async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
            create = shorter(client.chat.completions.create)
            await create(model="m", messages=MESSAGES, temperature=0.5)
            check(requests[-1])
            stream = await create(model="m", messages=MESSAGES, temperature=0.5, stream=True)
            words = [chunk.choices[0].delta.content async for chunk in stream]
            assert words[0] == "got"
            check(requests[-1])

    asyncio.run(run())


def test_a_tool_loop_with_the_clients_own_message_objects(upstream):
    url, requests = upstream
    with openai.OpenAI(base_url=url, api_key="none") as client:
        first = client.chat.completions.create(model="m", messages=[{"role": "user", "content": Q}])
        call = {"id": "1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
        said = first.choices[0].message.model_copy(
            update={"tool_calls": [openai.types.chat.ChatCompletionMessageFunctionToolCall.model_validate(call)]}
        )
        tool = {"role": "tool", "tool_call_id": "1", "content": f"{RIVER}\n\n{GLASS}\n\n{BEES}"}
        messages = [{"role": "user", "content": Q}, said, tool]
        shorter(client.chat.completions.create)(model="m", messages=messages)
    sent = requests[-1]["messages"]
    assert sent[1]["tool_calls"] == [call]
    assert sent[2]["tool_call_id"] == "1"
    assert sent[2]["content"].startswith("A worker bee")
    assert messages[2]["content"] == tool["content"]


def test_typos_in_the_parameter_fail_at_once(upstream):
    url, _ = upstream
    with (
        openai.OpenAI(base_url=url, api_key="none") as client,
        pytest.raises(ValueError, match="did you mean 'messages'"),
    ):
        compress_context(messages="mesages", keep=0.2)(client.chat.completions.create)
