"""A chat completion as the local generator reads it: what it can do, and a clear refusal of everything else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ctxcomp.errors import InputError
from ctxcomp.generate.sampling import Sampling
from ctxcomp_service.settings import GeneratorSettings

TAKEN = frozenset(
    "model messages stream stream_options max_tokens max_completion_tokens temperature top_p top_k seed stop".split()
)
IGNORED = frozenset(
    "user metadata service_tier parallel_tool_calls safety_identifier prompt_cache_key prompt_cache_retention".split()
)
"""They change nothing in an answer."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "store": (False,),
}
"""What asks for something that the generator cannot do, and the values that do not ask for it."""
STOPS = 4
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class UnsupportedError(InputError):
    """A request that cannot be answered; ``param`` names the field."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}")
        self.param = param


@dataclass(frozen=True)
class Asked:
    """One request, understood."""

    messages: list[dict[str, str]]
    sampling: Sampling
    stream: bool
    include_usage: bool


def read_request(body: bytes, settings: GeneratorSettings, defaults: Mapping[str, Any]) -> Asked:
    """Understand a request's body, a JSON object.

    Parameters
    ----------
    defaults: temperature, top_p and top_k of requests that name none.

    Raises
    ------
    UnsupportedError: it asks for what the generator cannot do, or a value is wrong.
    """
    given: dict[str, Any] = {name: value for name, value in json.loads(body).items() if value is not None}
    _refuse(given)
    stream = _flag(given, "stream")
    options = given.get("stream_options", {})
    if not isinstance(options, dict) or (options and not stream):
        raise UnsupportedError("stream_options", "takes an object, and only with stream")
    return Asked(
        [_message(i, one) for i, one in enumerate(_list(given, "messages"))],
        _sampling(given, settings, defaults),
        stream,
        _flag(options, "include_usage"),
    )


def text_parts(body: bytes) -> list[str]:
    """Every text in the messages of a body that was understood before its context was compressed."""
    messages = json.loads(body).get("messages")
    found = []
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        parts = content if isinstance(content, list) else [{"text": content}]
        found += [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return found


def _refuse(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name in NEUTRAL:
            fine = NEUTRAL[name]
            if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in fine):
                raise UnsupportedError(name, f"the local generator cannot do that: leave it out or give {fine[0]}")
        elif name not in TAKEN | IGNORED:
            raise UnsupportedError(name, "the local generator does not know this parameter")


def _sampling(given: Mapping[str, Any], settings: GeneratorSettings, defaults: Mapping[str, Any]) -> Sampling:
    most = given.get("max_completion_tokens", given.get("max_tokens", settings.max_tokens))
    stop = given.get("stop", ())
    if isinstance(stop, list) and len(stop) > STOPS:
        raise UnsupportedError("stop", f"takes at most {STOPS} texts, got {len(stop)}")
    chosen = {name: given.get(name, value) for name, value in defaults.items()}
    try:
        return Sampling(max_tokens=most, seed=given.get("seed"), stop=stop, **chosen)
    except InputError as error:
        raise UnsupportedError(str(error).partition(" ")[0], str(error)) from error


def _message(index: int, message: Any) -> dict[str, str]:
    where = f"messages[{index}]"
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise UnsupportedError(where, f"role must be one of {', '.join(ROLES)}: the local generator calls no tools")
    if message.get("tool_calls") or message.get("function_call"):
        raise UnsupportedError(where, "the local generator calls no tools")
    return {"role": ROLES[message["role"]], "content": _content(where, message.get("content"))}


def _content(where: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    parts: Sequence[Any] = content if isinstance(content, list) else [None]
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise UnsupportedError(f"{where}.content", "the local generator reads text only")
    return "".join(part["text"] for part in parts)


def _list(given: Mapping[str, Any], name: str) -> list[Any]:
    value = given.get(name)
    if not isinstance(value, list) or not value:
        raise UnsupportedError(name, "a list with at least one entry is needed")
    return value


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name)
    if value is not None and not isinstance(value, bool):
        raise UnsupportedError(name, f"must be true or false, got {value!r:.40}")
    return bool(value)
