"""Who is calling: API keys, known by their hashes, and what each may do."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from ctxcomp.types import Budget
from ctxcomp_service.errors import ServiceError
from ctxcomp_service.limits import Allowance
from ctxcomp_service.settings import Policy, Settings

KEY_PREFIX = "ctxc_"
ANONYMOUS = "anonymous"

# For OpenAPI only: the key itself is read, and refused, by the middleware, before a body is.
_bearer = HTTPBearer(auto_error=False, description="An API key of this service.")
_header = APIKeyHeader(name="x-api-key", auto_error=False, description="The same key, where Authorization is taken.")


@dataclass(frozen=True, slots=True)
class Caller:
    """One key, or whoever calls without one, and what it may do."""

    tenant: str
    key_id: str
    method: str
    methods: frozenset[str] | None
    budget: Budget | None
    on_failure: Literal["closed", "input"]
    allowance: Allowance
    markers: bool = False

    def may_use(self, method: str) -> bool:
        """Whether a method, or every stage of a chain, is allowed."""
        return self.methods is None or method in self.methods or all(m in self.methods for m in method.split("+"))


class Keyring:
    """The callers that the settings name, found by the keys they present."""

    def __init__(self, settings: Settings) -> None:
        self._by_hash = {key.sha256: _caller(key.tenant, key.id, key, settings) for key in settings.keys}
        unknown = _caller(ANONYMOUS, ANONYMOUS, settings.defaults, settings)
        self._anonymous = unknown if settings.allow_anonymous or not settings.keys else None

    def authenticate(self, headers: Mapping[str, str]) -> Caller:
        """The caller whose key the headers hold, ``Authorization: Bearer`` or ``x-api-key``.

        Raises
        ------
        ServiceError: 401, there is no key or it is not known.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = headers.get("x-api-key") or (token.strip() if scheme.lower() == "bearer" else "")
        if key and self._by_hash:
            digest, found = hash_key(key), None
            # All are compared, each in constant time: how long it takes says nothing about the keys.
            for known, caller in self._by_hash.items():
                if hmac.compare_digest(known, digest):
                    found = caller
            if found is None:
                raise ServiceError(401, "wrong_key", "this API key is not known here")
            return found
        if self._anonymous is None:
            raise ServiceError(401, "no_key", "an API key is needed: send `Authorization: Bearer KEY`")
        return self._anonymous


def _caller(tenant: str, key_id: str, own: Policy, settings: Settings) -> Caller:
    policy = settings.defaults.model_copy(
        update={name: getattr(own, name) for name in own.model_fields_set & set(Policy.model_fields)}
    )
    budget = Budget(tokens=policy.budget.tokens, keep=policy.budget.keep) if policy.budget else None
    return Caller(
        tenant=tenant, key_id=key_id, method=policy.method or settings.method,
        methods=None if policy.methods is None else frozenset(policy.methods), budget=budget,
        on_failure=policy.on_failure, allowance=Allowance.of(policy), markers=policy.markers,
    )  # fmt: skip


async def caller(
    request: Request,
    _authorization: Annotated[object, Security(_bearer)] = None,
    _api_key: Annotated[object, Security(_header)] = None,
) -> Caller:
    """The dependency of every route that needs to know who calls."""
    known: Caller = request.state.caller
    return known


Known = Annotated[Caller, Depends(caller)]


def hash_key(key: str) -> str:
    """How the settings know a key. Keys hold 256 random bits, so a fast hash gives nothing to guess."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def new_key() -> str:
    """A key of 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)
