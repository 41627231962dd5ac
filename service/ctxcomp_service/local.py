"""The local generator as an upstream of the gateway: chat completions from a model of this process."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from ctxcomp.errors import CtxcompError, InputError
from ctxcomp.inputs import read_sources
from ctxcomp.optional import require
from ctxcomp_service.errors import ServiceError
from ctxcomp_service.local_request import UnsupportedError, read_request, text_parts
from ctxcomp_service.settings import GeneratorSettings
from ctxcomp_service.upstreams import Upstream

if TYPE_CHECKING:
    from ctxcomp.generate import Generated, Generator, Sampling

log = logging.getLogger(__name__)

NAME = "generator"
"""How headers and logs call this upstream."""
RETRY_SECONDS = 5


async def open_local(settings: GeneratorSettings) -> LocalUpstream:
    """Load the generator of the settings.

    Raises
    ------
    CtxcompError: the model or an option of it cannot be used.
    """
    return LocalUpstream(settings, await asyncio.to_thread(_load, settings))


def _load(settings: GeneratorSettings) -> Generator:
    for package in ("torch", "transformers"):
        require(package, extra="generate")
    from ctxcomp.generate import Generator

    texts = [s.passage.text for s in read_sources([str(settings.calibration)])] if settings.calibration else None
    quantization: dict[str, Any] = {"bits": settings.bits, "calibration": texts} if settings.weights else {}
    generator = Generator.from_pretrained(
        settings.path, settings.weights, settings.kv, settings.device, settings.dtype, **quantization
    )
    log.info("generator", extra={"model": settings.model, "weight_bytes": generator.weight_bytes})
    return generator


@dataclass(frozen=True)
class Turn:
    """One request in the queue.

    Parameters
    ----------
    cancelled: ends it.
    prompt: token ids.
    sources: texts to draft from; None decodes plainly.
    """

    cancelled: threading.Event
    prompt: Sequence[int]
    sampling: Sampling
    sources: Sequence[str] | None


class LocalUpstream(Upstream):
    """One model, which writes one answer after the other; others wait, up to a bound."""

    def __init__(self, settings: GeneratorSettings, generator: Generator) -> None:
        super().__init__(NAME, (settings.model,))
        self._settings, self._generator = settings, generator
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="ctxcomp-generator")
        self._cancels: set[threading.Event] = set()
        self._defaults = _defaults(generator)

    async def open(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        original: bytes | None = None,
    ) -> httpx.Response:
        """Answer a chat completion; a stream begins once the request is accepted.

        Raises
        ------
        ServiceError: 503, too many requests wait.
        httpx.ReadError: the model failed; the log has the reason.
        """
        if (method, path) != ("POST", "/chat/completions") or body is None:
            return _error(404, "the local generator answers chat completions only")
        try:
            asked = read_request(body, self._settings, self._defaults)
            prompt = await asyncio.to_thread(self._generator.prompts.tokens, asked.messages)
            self._generator.check(prompt)
        except UnsupportedError as error:
            return _error(400, str(error), error.param)
        except InputError as error:
            return _error(400, str(error), "messages")
        changed = original is not None and original != body
        sources = (text_parts(original or b"{}") if changed else []) if self._settings.drafts else None
        turn = Turn(self._reserved(), prompt, asked.sampling, sources)
        if asked.stream:
            events = _Events(self, turn, asked.include_usage)
            return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=events)
        done = await self.answer(turn)
        return _json(200, _completion(self.model, done))

    def _reserved(self) -> threading.Event:
        """A place in the queue; who sets the event gives it up."""
        waiting = len(self._cancels) - 1
        if waiting >= self._settings.waiting:
            raise ServiceError(503, "generator_busy", f"{waiting} requests wait already", retry_after=RETRY_SECONDS)
        cancelled = threading.Event()
        self._cancels.add(cancelled)
        return cancelled

    async def answer(self, turn: Turn, on_text: Callable[[str], None] | None = None) -> Generated:
        """Write one answer when its turn comes; whoever stops waiting for it ends it.

        Raises
        ------
        httpx.ReadError: the model failed.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._worker, self._complete, turn, on_text)
        except (CtxcompError, RuntimeError, MemoryError) as error:
            log.error("the generator failed", exc_info=error)
            raise httpx.ReadError("the generator failed") from error
        finally:
            turn.cancelled.set()
            self._cancels.discard(turn.cancelled)

    def close(self) -> None:
        """End what is being written."""
        for cancelled in self._cancels:
            cancelled.set()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _complete(self, turn: Turn, on_text: Callable[[str], None] | None) -> Generated:
        done = self._generator.complete(
            [turn.prompt], turn.sampling, sources=turn.sources, on_text=on_text, cancelled=turn.cancelled
        )[0]
        log.info("generated", extra={"tokens": done.usage.completion_tokens, "model_calls": done.usage.model_calls})
        return done

    @property
    def model(self) -> str:
        """The model's name."""
        return self._settings.model


class _Body(httpx.AsyncByteStream):
    """A body that is there already, but that has yet to be read."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content


class _Events(httpx.AsyncByteStream):
    """An answer as server-sent events, in OpenAI's form. The model's turn begins with it and ends when it is closed."""

    def __init__(self, upstream: LocalUpstream, turn: Turn, include_usage: bool) -> None:
        loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._include_usage, self._head = include_usage, _head(upstream.model, "chat.completion.chunk")

        def on_text(piece: str) -> None:
            loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

        self._task = asyncio.create_task(upstream.answer(turn, on_text))
        self._task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Generated]) -> None:
        if not task.cancelled():
            task.exception()  # it counts as seen, even if nobody reads on
        self._pieces.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._chunk({"role": "assistant", "content": ""})
        while (piece := await self._pieces.get()) is not None:
            yield self._chunk({"content": piece})
        done = await self._task
        yield self._chunk({}, done.finish_reason)
        if self._include_usage:
            yield _event({**self._head, "choices": [], "usage": _usage(done)})
        yield b"data: [DONE]\n\n"

    async def aclose(self) -> None:
        """Stop the model, if it still writes."""
        self._task.cancel()

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event({**self._head, "choices": [choice]} | ({"usage": None} if self._include_usage else {}))


def _json(status: int, data: Mapping[str, Any]) -> httpx.Response:
    return httpx.Response(status, headers={"content-type": "application/json"}, stream=_Body(_encoded(data)))


def _encoded(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + _encoded(data) + b"\n\n"


def _head(model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


def _usage(done: Generated) -> dict[str, int]:
    read, written = done.usage.prompt_tokens, done.usage.completion_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _completion(model: str, done: Generated) -> dict[str, Any]:
    message = {"role": "assistant", "content": done.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": done.finish_reason}
    return {**_head(model, "chat.completion"), "choices": [choice], "usage": _usage(done)}


def _error(status: int, message: str, param: str | None = None) -> httpx.Response:
    kind = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    return _json(status, {"error": kind})


def _defaults(generator: Generator) -> dict[str, Any]:
    """Temperature, top_p and top_k as the checkpoint's generation_config has them; greedy where it does not sample."""
    own = generator.model.generation_config
    if not own.do_sample:
        return {"temperature": 0.0, "top_p": 1.0, "top_k": 0}
    found = {"temperature": own.temperature, "top_p": own.top_p, "top_k": own.top_k}
    plain = {"temperature": 1.0, "top_p": 1.0, "top_k": 50}
    return {name: plain[name] if value is None else value for name, value in found.items()}
