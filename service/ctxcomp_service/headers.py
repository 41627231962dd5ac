"""The headers that go through the gateway, in either direction: lists of what may, never of what may not."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from starlette.datastructures import MutableHeaders

BYPASS = ("x-ctxcomp-bypass", "x-headroom-bypass")

_REQUEST = ("accept", "idempotency-key", "traceparent", "tracestate", "x-client-request-id")
_REQUEST_WITH_AUTHORIZATION = ("authorization", "openai-organization", "openai-project", "openai-beta")
_ANSWER = ("retry-after", "retry-after-ms", "x-should-retry", "openai-model", "openai-processing-ms", "openai-version")
_ANSWER_PREFIX = "x-ratelimit-"


def is_bypassed(headers: Mapping[str, str]) -> bool:
    """Whether the caller asks for its messages as they are."""
    return any(headers.get(name, "").strip().lower() == "true" for name in BYPASS)


def request_headers(headers: Mapping[str, str], *, pass_authorization: bool) -> dict[str, str]:
    """What an upstream gets to see of a client's headers.

    The client's ``Authorization`` goes on only where the upstream is configured so and ``x-api-key`` opened this
    service, or nothing had to: a key of ours never leaves.
    """
    names = _REQUEST + _REQUEST_WITH_AUTHORIZATION if pass_authorization else _REQUEST
    return {"content-type": "application/json"} | {name: headers[name] for name in names if name in headers}


def answer_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """What a client gets to see of an upstream's headers; its request id under a name of its own."""
    passed = {n: v for n, v in headers.items() if n in _ANSWER or n.startswith(_ANSWER_PREFIX)}
    if "x-request-id" in headers:
        passed["x-upstream-request-id"] = headers["x-request-id"]
    return passed


def set_token_headers(
    headers: MutableMapping[str, str] | MutableHeaders,
    tokens_in: int,
    tokens_out: int,
    method: str | None,
    fallback: str | None,
) -> None:
    """What an answer says of its messages: tokens before and after, by which method, and whether it failed."""
    headers["x-ctxcomp-tokens-in"] = str(tokens_in)
    headers["x-ctxcomp-tokens-out"] = str(tokens_out)
    headers["x-ctxcomp-tokens-saved"] = str(tokens_in - tokens_out)
    if method:
        headers["x-ctxcomp-method"] = method
    if fallback:
        headers["x-ctxcomp-fallback"] = fallback
