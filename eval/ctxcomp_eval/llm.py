"""Answers from any server that speaks OpenAI's chat completions: hosted, or vLLM, llama.cpp, Ollama and others.

Plain ``urllib``, not the ``openai`` client: this is one POST with retries, it needs no package beyond ctxcomp's own
(the client brings a dozen), and servers that are not OpenAI's answer in ways whose text the user should see.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from ctxcomp.errors import InputError, ModelError
from ctxcomp.progress import tracked

KEY_VARIABLES = ("CTXCOMP_LLM_KEY", "OPENAI_API_KEY")
SYSTEM = (
    "Answer the question from the context alone. Reply with the shortest phrase that answers it, in the words of the "
    "context, and nothing else: no sentence, no explanation. If the context does not hold the answer, reply: unknown"
)
PROMPT = "Context:\n{context}\n\nQuestion: {question}\nAnswer:"
LONGEST_WAIT = 60.0
"""Seconds between two tries, at most, whatever the server asks for."""
_RETRIED = frozenset({408, 409, 425, 429, *range(500, 600)})
_VERSION = re.compile(r"v\d+\w*")
_THOUGHT = re.compile(r"\A\s*<think>.*?(?:</think>|\Z)", re.DOTALL)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host, and turn the POST into a GET."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


class _PassingError(Exception):
    """A failure that may be gone at the next try, and how many seconds the server asks to wait."""

    def __init__(self, said: str, pause: float = 0.0) -> None:
        super().__init__(said)
        self.pause = pause


def endpoint(url: str) -> str:
    """The address of chat completions below a base URL, with or without ``/v1``; a full address stays as it is.

    Raises
    ------
    InputError: not an http or https URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InputError(f"a server's URL is like http://localhost:8000/v1 or https://host/v1, got {url!r}")
    if parts.path.rstrip("/").endswith("/chat/completions"):
        return url
    path = parts.path.rstrip("/")
    versioned = any(_VERSION.fullmatch(segment) for segment in path.split("/"))
    return parts._replace(path=f"{path}{'' if versioned else '/v1'}/chat/completions").geturl()


@dataclass(frozen=True)
class ChatModel:
    """A chat model behind a URL, as an answerer.

    Parameters
    ----------
    url: base URL of the server, with or without ``/v1``.
    model: its name there.
    key: sent as a bearer token; None takes the first of ``KEY_VARIABLES`` that is set, "" sends none.
    timeout: seconds without a byte from the server after which a try has failed, > 0.
    parallel: requests under way at once, >= 1.
    retries: further tries after a timeout, a lost connection, or status 408, 409, 425, 429 and 5xx, >= 0.
    pause: seconds before the second try, >= 0; doubled each time, a random part less, up to ``LONGEST_WAIT``. A
        longer ``Retry-After`` of the server goes first, up to the same limit.
    body: more fields of the request; None leaves one out (``{"max_tokens": None, "max_completion_tokens": 500}``).

    Raises
    ------
    InputError: a field is outside its range.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    parallel: int = 8
    retries: int = 5
    pause: float = 1.0
    body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        endpoint(self.url)
        if not self.model:
            raise InputError("model must name a model of the server, got ''")
        if self.timeout <= 0 or self.parallel < 1 or self.retries < 0 or self.pause < 0:
            raise InputError(
                "timeout must be > 0, parallel >= 1, retries and pause >= 0, got "
                f"{self.timeout}, {self.parallel}, {self.retries} and {self.pause}"
            )

    @property
    def name(self) -> str:
        """As it stands in results."""
        return f"llm:{self.model}"

    def answer(self, questions: Sequence[str], contexts: Sequence[str]) -> list[str]:
        """One answer per question, in order.

        A blank context is answered "" without a request: what the model knows by itself says nothing about it.

        Raises
        ------
        InputError: not as many contexts as questions.
        ModelError: the server cannot be reached, refuses, or sends what is no chat completion.
        """
        if len(questions) != len(contexts):
            raise InputError(f"{len(questions)} questions and {len(contexts)} contexts: each question needs its own")
        stopped = threading.Event()
        with ThreadPoolExecutor(self.parallel) as pool:
            pairs = zip(questions, contexts, strict=True)
            futures = [pool.submit(self._answer, question, context, stopped) for question, context in pairs]
            try:
                return [future.result() for future in tracked(futures)]
            finally:
                stopped.set()  # an interrupt ends the threads too

    def _answer(self, question: str, context: str, stopped: threading.Event) -> str:
        # One failure ends the run: nobody should wait or pay for answers that will be thrown away.
        if not context.strip() or stopped.is_set():
            return ""
        try:
            return self._tried(self._request(question, context), stopped)
        except BaseException:
            stopped.set()
            raise

    def _tried(self, request: urllib.request.Request, stopped: threading.Event) -> str:
        for tried in range(self.retries + 1):
            try:
                return self._text(self._send(request))
            except _PassingError as error:
                if tried == self.retries:
                    raise ModelError(f"{request.full_url}: {error}, after {tried + 1} tries") from error
                backoff = self.pause * 2.0**tried * random.uniform(0.5, 1.0)
                if stopped.wait(min(max(backoff, error.pause), LONGEST_WAIT)):
                    break
        return ""  # another question has failed: nobody sees this answer

    def _request(self, question: str, context: str) -> urllib.request.Request:
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": PROMPT.format(context=context, question=question)},
        ]
        fields = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": 64} | dict(self.body)
        sent = {name: value for name, value in fields.items() if value is not None}
        key = next((os.environ[v] for v in KEY_VARIABLES if os.environ.get(v)), "") if self.key is None else self.key
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        return urllib.request.Request(endpoint(self.url), json.dumps(sent).encode(), headers)

    def _send(self, request: urllib.request.Request) -> bytes:
        try:
            with _OPENER.open(request, timeout=self.timeout) as response:
                received: bytes = response.read()
                return received
        except urllib.error.HTTPError as error:
            said = f"status {error.code}: {_excerpt(_rest(error))}"
            if error.code in _RETRIED:
                raise _PassingError(said, _seconds(error.headers.get("Retry-After"))) from error
            raise ModelError(f"{request.full_url}: {said}") from error
        except TimeoutError as error:
            raise _PassingError(f"nothing came for {self.timeout} s: raise timeout for a slow model") from error
        except (OSError, HTTPException) as error:  # URLError is an OSError
            raise _PassingError(f"no answer ({getattr(error, 'reason', None) or error!r})") from error

    def _text(self, received: bytes) -> str:
        try:
            choice = json.loads(received)["choices"][0]
            text, why = choice["message"].get("content"), choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelError(f"{endpoint(self.url)}: no chat completion, but {_excerpt(received)}") from error
        if text is None and why == "content_filter":
            return ""
        if not isinstance(text, str):
            raise ModelError(f"{endpoint(self.url)}: no text (finish_reason {why!r}) in {_excerpt(received)}")
        shown = _THOUGHT.sub("", text).strip()
        if not shown and why == "length":
            raise ModelError(f"{self.model} wrote no answer within its tokens: raise max_tokens in body")
        return shown


def _rest(error: urllib.error.HTTPError) -> bytes:
    """What the server said with its refusal, as far as it came."""
    try:
        with error:
            return error.read()
    except (OSError, HTTPException):
        return b""


def _excerpt(received: bytes) -> str:
    text = " ".join(received.decode(errors="replace").split())
    return repr(text if len(text) <= 300 else text[:300] + "…")


def _seconds(header: str | None) -> float:
    """Seconds of a Retry-After header; 0 for none, and for a date."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0
