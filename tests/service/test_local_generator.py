"""The local generator behind the gateway: the real openai client, a real server on loopback, a tiny model."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("openai")
pytest.importorskip("torch")
pytest.importorskip("transformers")

import httpx
import openai
from chat_upstream import chat_upstream
from tiny_chat import tiny_chat

from ctxcomp import ModelError
from ctxcomp.cli import main
from ctxcomp.generate import Generator
from ctxcomp_service.auth import hash_key
from ctxcomp_service.local import open_local
from ctxcomp_service.settings import GeneratorSettings

FACTS = " ".join(f"The mill at Ford {i} burnt down in {1700 + i}." for i in range(20))
QUESTION = "When did the mill at Ford 7 burn down?"
RAG = [{"role": "user", "content": f"<context>\n{FACTS}\n</context>\n\n{QUESTION}"}]
HELLO = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello?"}]
BYPASS = {"x-ctxcomp-bypass": "true"}
LONG = {"model": "tiny", "messages": HELLO, "max_tokens": 3000}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_chat(tmp_path_factory.mktemp("chat") / "tiny", max_positions=4096)


@pytest.fixture(scope="module")
def alone(checkpoint):
    """The same model without a service."""
    return Generator.from_pretrained(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def scripted():
    with chat_upstream() as found:
        yield found


@pytest.fixture(scope="module")
def server(checkpoint, scripted, live_servers):
    return live_servers(
        generator={"path": str(checkpoint), "device": "cpu", "max_tokens": 24, "waiting": 2},
        upstreams={"scripted": {"url": f"{scripted.url}/v1", "models": ["echo"]}},
    )


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def idle(server) -> bool:
    local = server.app.state.upstreams.all[0]
    return not local._cancels and not local._generator._lock.locked()


def wait_until_idle(server) -> None:
    until = time.monotonic() + 60
    while not idle(server):
        assert time.monotonic() < until, "the generator still writes"
        time.sleep(0.01)


def test_an_answer_is_the_generators_own(client, alone):
    answer = client.chat.completions.create(model="tiny", messages=HELLO)
    expected = alone.chat(HELLO, max_tokens=24)
    [choice] = answer.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (expected.text, "assistant", "length")
    assert answer.model == "tiny"
    assert answer.usage.prompt_tokens == expected.usage.prompt_tokens
    assert answer.usage.completion_tokens == 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 24
    assert answer.id.startswith("chatcmpl-")


def test_a_stream_is_the_answer_in_pieces(client, alone):
    pieces = list(
        client.chat.completions.create(
            model="tiny", messages=HELLO, stream=True, max_completion_tokens=12, stream_options={"include_usage": True}
        )
    )
    text = [p.choices[0].delta.content for p in pieces if p.choices and p.choices[0].delta.content]
    expected = alone.chat(HELLO, max_tokens=12)
    assert "".join(text) == expected.text
    assert len(text) == len(expected.text)  # one byte is one token is one piece
    assert [p.choices[0].finish_reason for p in pieces if p.choices][-1] == "length"
    assert pieces[-1].choices == []
    assert pieces[-1].usage.completion_tokens == 12
    assert len({p.id for p in pieces}) == 1
    without = list(client.chat.completions.create(model="tiny", messages=HELLO, stream=True, max_tokens=2))
    assert all(p.usage is None for p in without)


def test_sampling_seeds_and_stops(client, alone):
    drawn = {"temperature": 1.0, "top_p": 0.9, "seed": 4}
    expected = alone.chat(HELLO, max_tokens=24, **drawn)
    for _ in range(2):
        answer = client.chat.completions.create(model="tiny", messages=HELLO, **drawn, extra_body={"top_k": 0})
        assert answer.choices[0].message.content == expected.text
    assert expected.text != alone.chat(HELLO, max_tokens=24).text
    stop = expected.text[6:8]
    answer = client.chat.completions.create(model="tiny", messages=HELLO, **drawn, stop=[stop, "never"])
    assert answer.choices[0].message.content == expected.text[: expected.text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_content_in_parts_and_the_developers_role(client, alone):
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo?"}]
    messages = [{"role": "developer", "content": "Be short."}, {"role": "user", "content": parts}]
    answer = client.chat.completions.create(model="tiny", messages=messages)
    assert answer.choices[0].message.content == alone.chat(HELLO, max_tokens=24).text


def test_context_is_compressed_on_the_way_with_the_models_own_tokenizer(client, alone):
    whole = client.chat.completions.create(model="tiny", messages=RAG, extra_headers=BYPASS)
    raw = client.chat.completions.with_raw_response.create(
        model="tiny", messages=RAG, extra_body={"ctxcomp": {"budget": {"tokens": 120}}}
    )
    short = raw.parse()
    assert raw.headers["x-ctxcomp-upstream"] == "generator"
    saved = int(raw.headers["x-ctxcomp-tokens-saved"])
    assert saved > 600  # of this model a token is a byte
    assert whole.usage.prompt_tokens - short.usage.prompt_tokens == pytest.approx(saved, abs=5)
    assert whole.choices[0].message.content == alone.chat(RAG, max_tokens=24).text


def test_drafts_come_from_what_compression_took_away(server, client, monkeypatch):
    seen = []
    generator = server.app.state.upstreams.all[0]._generator
    complete = generator.complete
    monkeypatch.setattr(generator, "complete", lambda *a, **k: (seen.append(k["sources"]), complete(*a, **k))[1])
    client.chat.completions.create(model="tiny", messages=RAG, extra_body={"ctxcomp": {"budget": {"tokens": 100}}})
    client.chat.completions.create(model="tiny", messages=RAG, extra_headers=BYPASS)
    assert seen == [[RAG[0]["content"]], []]


def test_models(client):
    assert [(m.id, m.owned_by) for m in client.models.list()] == [("tiny", "generator"), ("echo", "scripted")]
    assert client.models.retrieve("tiny").id == "tiny"
    assert client.chat.completions.create(model="generator/tiny", messages=HELLO).model == "tiny"
    assert client.chat.completions.create(model="echo", messages=HELLO).choices[0].message.content
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=HELLO)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"5": 3}}, "logit_bias"),
        ({"extra_body": {"best_of": 3}}, "best_of"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": list("abcde")}, "stop"),
        ({"extra_body": {"seed": "x"}}, "seed"),
        ({"extra_body": {"stream": "yes"}}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x" * 4200}]}, "messages"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_refused_clearly(client, given, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "tiny", "messages": HELLO} | given, extra_headers=BYPASS)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_what_asks_for_nothing_is_taken(client):
    neutral = {"n": 1, "logprobs": False, "presence_penalty": 0, "tools": [], "user": "me", "store": False}
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=1, response_format={"type": "text"}, extra_body=neutral
    )
    assert answer.usage.completion_tokens == 1


def test_a_client_that_leaves_a_stream_frees_the_model(server, client):
    stream = client.chat.completions.create(**LONG, stream=True)
    next(iter(stream))
    assert not idle(server)
    stream.close()
    wait_until_idle(server)


def test_a_client_that_leaves_an_answer_frees_the_model(server):
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/chat/completions", json=LONG, timeout=httpx.Timeout(30, read=0.05))
    wait_until_idle(server)


def test_requests_wait_in_line_and_too_many_are_turned_away(server, client, alone):
    wait_until_idle(server)
    first = client.chat.completions.create(**LONG, stream=True)
    next(iter(first))
    found = {}

    def ask(i: int) -> None:
        found[i] = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=3 + i)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    local, until = server.app.state.upstreams.all[0], time.monotonic() + 30
    while len(local._cancels) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="tiny", messages=HELLO)
    assert caught.value.status_code == 503
    assert caught.value.code == "generator_busy"
    assert int(caught.value.response.headers["retry-after"]) >= 1
    first.close()
    for thread in threads:
        thread.join(60)
    whole = alone.chat(HELLO, max_tokens=4).text
    assert [found[i].choices[0].message.content for i in range(2)] == [whole[:3], whole]


def test_a_model_that_fails_is_an_error_and_the_next_request_works(server, client, monkeypatch):
    generator = server.app.state.upstreams.all[0]._generator

    def fail(*_, **__):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(generator, "complete", fail)
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="tiny", messages=HELLO)
        assert caught.value.status_code == 502
        assert "out of memory" not in str(caught.value)
        with pytest.raises(openai.APIError):
            list(client.chat.completions.create(model="tiny", messages=HELLO, stream=True))
    assert client.chat.completions.create(model="tiny", messages=HELLO).choices[0].message.content


def test_keys_and_options_of_the_settings(checkpoint, live_servers):
    key = "ctxc_local"
    generator = {"path": str(checkpoint), "name": "ours", "device": "cpu", "kv": "int8", "weights": "rtn", "bits": 8}
    server = live_servers(keys=[{"id": "k", "tenant": "t", "sha256": hash_key(key)}], generator=generator)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
        answer = client.chat.completions.create(model="ours", messages=HELLO, max_tokens=5, temperature=0)
    same = Generator.from_pretrained(checkpoint, "rtn", "int8", "cpu", bits=8)
    assert answer.choices[0].message.content == same.chat(HELLO, max_tokens=5).text
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="ctxc_x", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.chat.completions.create(model="ours", messages=HELLO)


def test_defaults_are_the_checkpoints_own(checkpoint, tmp_path, live_servers):
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    sampled = settings | {"do_sample": True, "temperature": 0.5, "top_k": 7}
    (tmp_path / "generation_config.json").write_text(json.dumps(sampled))
    server = live_servers(generator={"path": str(tmp_path), "name": "tiny", "device": "cpu"})
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=9, seed=2)
    own = Generator.from_pretrained(tmp_path, device="cpu").chat(HELLO, max_tokens=9, seed=2, temperature=0.5, top_k=7)
    assert answer.choices[0].message.content == own.text


def test_the_command_says_what_is_wrong_with_a_generator(tmp_path, capfd, monkeypatch):
    for name in ("PATH", "KV", "WEIGHTS", "NAME", "BITS"):
        monkeypatch.setenv(f"CTXCOMP_GENERATOR__{name}", "")
        monkeypatch.delenv(f"CTXCOMP_GENERATOR__{name}")
    assert main(["serve", "--generator", str(tmp_path / "none"), "--port", "0"]) == 1
    assert "no model at" in capfd.readouterr().err
    assert main(["serve", "--generator", str(tmp_path), "--generator-bits", "17"]) == 2
    assert "generator.bits" in capfd.readouterr().err
    with pytest.raises(ModelError):
        Generator.from_pretrained(tmp_path / "none")


def test_weights_are_calibrated_on_a_file_of_the_settings(checkpoint, tmp_path):
    (tmp_path / "own.txt").write_text(FACTS * 10, encoding="utf-8")
    settings = GeneratorSettings(path=str(checkpoint), weights="awq", calibration=tmp_path / "own.txt", device="cpu")
    small = asyncio.run(open_local(settings))
    assert small.models == ("tiny",)
    assert small._generator.weight_bytes < Generator.from_pretrained(checkpoint, device="cpu").weight_bytes
    small.close()
