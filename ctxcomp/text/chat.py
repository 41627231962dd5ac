"""Summaries by a chat model that the caller already has: a LangChain chat model, an openai client, or a function."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ctxcomp.errors import InputError, ModelError
from ctxcomp.progress import tracked

SYSTEM = (
    "You shorten passages for another model. Write only what the passages say, in their own words: copy names, numbers "
    "and dates exactly, add nothing from elsewhere, explain nothing. If nothing in them helps, reply with NOTHING."
)
ASKED = "Passages:\n{passages}\n\nQuestion: {query}\n\nWrite what helps to answer it, in at most {words} words:"
UNASKED = "Passages:\n{passages}\n\nWrite what matters most in them, in at most {words} words:"
_RETRIED = frozenset({408, 409, 425, 429, *range(500, 600)})
_PASSING = re.compile(r"Timeout|Connection|RateLimit|Overloaded|ServiceUnavailable|InternalServer")
_THOUGHT = re.compile(r"\A\s*<think>.*?(?:</think>|\Z)", re.DOTALL)
_NOTHING = re.compile(r"\W*NOTHING\W*")


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """How a chat model is asked.

    Parameters
    ----------
    chat: a LangChain chat model, an openai-compatible client, or a function from the prompt to the answer; None for
        none. It is called from several threads.
    chat_model: the model's name, for an openai client.
    parallel: requests under way at once, >= 1.
    retries: further tries after a timeout, a lost connection, and status 408, 409, 425, 429 and 5xx, >= 0.
    pause: seconds before the second try, >= 0; doubled each time, 60 at most.
    """

    chat: Any = None
    chat_model: str = ""
    parallel: int = 4
    retries: int = 3
    pause: float = 1.0

    def check_chat(self) -> None:
        """Refuse what is out of range, and what cannot be asked."""
        if self.parallel < 1 or self.retries < 0 or self.pause < 0:
            raise InputError(
                f"parallel must be >= 1, retries and pause >= 0, got {self.parallel}, {self.retries} and {self.pause}"
            )
        if self.chat is None:
            return
        if not (_is_client(self.chat) or hasattr(self.chat, "invoke") or callable(self.chat)):
            raise InputError(
                f"chat must be a LangChain chat model, an openai client or a function, got {type(self.chat).__name__}"
            )
        if _is_client(self.chat) and not self.chat_model:
            raise InputError("chat_model must name a model of the client's server, got ''")


def ask_all(prompts: Sequence[str], options: ChatOptions) -> list[str]:
    """One answer a prompt, in order; "" where the model found nothing.

    Raises
    ------
    ModelError: a request failed for good; those that had not begun are not sent.
    """
    stopped = threading.Event()

    def ask(prompt: str) -> str:
        if stopped.is_set():
            return ""
        try:
            return _tried(prompt, options, stopped)
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(min(options.parallel, max(len(prompts), 1))) as pool:
        futures = [pool.submit(ask, prompt) for prompt in prompts]
        try:
            return [future.result() for future in tracked(futures)]
        finally:
            stopped.set()  # an interrupt ends the threads too


def _tried(prompt: str, options: ChatOptions, stopped: threading.Event) -> str:
    for tried in range(options.retries + 1):
        try:
            said = _ask(prompt, options)
        except Exception as error:  # any client may be given, with errors of its own
            if tried == options.retries or not _passes(error):
                tries = f", after {tried + 1} tries" if tried else ""
                raise ModelError(f"the chat model failed ({type(error).__name__}: {error}){tries}") from error
            if stopped.wait(min(options.pause * 2**tried, 60.0)):
                break
            continue
        shown = _THOUGHT.sub("", said).strip()
        return "" if _NOTHING.fullmatch(shown) else shown
    return ""  # another request has failed: nobody sees this answer


def _passes(error: Exception) -> bool:
    """Whether a failure may be gone at the next try."""
    status = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status in _RETRIED
    return isinstance(error, (TimeoutError, ConnectionError)) or _PASSING.search(type(error).__name__) is not None


def _ask(prompt: str, options: ChatOptions) -> str:
    chat = options.chat
    if _is_client(chat):
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]
        answer = chat.chat.completions.create(model=options.chat_model, messages=messages, temperature=0)
        said = answer.choices[0].message.content
    elif hasattr(chat, "invoke"):
        answer = chat.invoke([("system", SYSTEM), ("human", prompt)])
        said = _content(getattr(answer, "content", answer))
    else:
        said = chat(f"{SYSTEM}\n\n{prompt}")
    if said is None:
        return ""
    if not isinstance(said, str):
        raise ModelError(f"the chat model answered with {type(said).__name__}: text is needed")
    return said


def _content(content: Any) -> Any:
    """The text of a message; LangChain's may be a list of parts."""
    if not isinstance(content, list):
        return content
    return "".join(part if isinstance(part, str) else str(part.get("text", "")) for part in content)


def _is_client(chat: Any) -> bool:
    return hasattr(getattr(getattr(chat, "chat", None), "completions", None), "create")
