"""The models behind the gateway: which upstream serves one, and one pooled client for all servers.

Upstreams come from the settings alone. Nothing that a client sends becomes part of an address: a model's name picks
an upstream, and travels in the body.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from fnmatch import fnmatchcase
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING

import httpx

from ctxcomp.errors import InputError
from ctxcomp_service.settings import Upstream as UpstreamSettings

if TYPE_CHECKING:
    from ctxcomp_service.local import LocalUpstream


class Upstream(ABC):
    """What answers for a model.

    Parameters
    ----------
    name: as the settings call it.
    models: names, or patterns with ``*``, that go there; none: whatever no other upstream has.
    pass_authorization: whether an Authorization that did not open this service is sent on.
    """

    def __init__(self, name: str, models: tuple[str, ...] = (), *, pass_authorization: bool = False) -> None:
        self.name, self.models, self.pass_authorization = name, models, pass_authorization

    @abstractmethod
    async def open(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        original: bytes | None = None,
    ) -> httpx.Response:
        """Send a request and return as soon as the answer's headers are there; the caller closes the response.

        Parameters
        ----------
        body: what to answer.
        original: the body as it was before its context was compressed; it stays in this process.

        Raises
        ------
        httpx.TransportError: no connection, no answer in time, or not HTTP.
        """

    def matches(self, model: str) -> bool:
        """Whether a pattern of the settings covers a model's name."""
        return any("*" in pattern and fnmatchcase(model, pattern) for pattern in self.models)


class RemoteUpstream(Upstream):
    """One configured server, and how to reach it."""

    def __init__(self, name: str, settings: UpstreamSettings, client: httpx.AsyncClient) -> None:
        super().__init__(name, settings.models, pass_authorization=settings.pass_authorization)
        address = httpx.URL(str(settings.url))
        if address.userinfo or address.query or address.fragment:
            raise InputError(f"upstreams.{name}.url may have no user, query or fragment: put the key into api_key")
        self._key = settings.api_key
        self._address = str(address).rstrip("/")
        self._client = client
        read, connect = settings.read_seconds, settings.connect_seconds
        self._timeout = httpx.Timeout(read, connect=connect, pool=connect)

    async def open(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        original: bytes | None = None,
    ) -> httpx.Response:
        """As for every upstream."""
        fields = {**headers, "accept-encoding": "identity"}
        if self._key is not None:
            fields["authorization"] = f"Bearer {self._key.get_secret_value()}"
        request = self._client.build_request(
            method, self._address + path, headers=fields, content=body, timeout=self._timeout
        )
        return await self._client.send(request, stream=True)


class Upstreams:
    """All configured servers, by the models that they serve."""

    def __init__(self, settings: Mapping[str, UpstreamSettings], *local: LocalUpstream) -> None:
        self._local = local
        self._client = _client()
        remote = (RemoteUpstream(name, one, self._client) for name, one in settings.items())
        self.all: tuple[Upstream, ...] = (*local, *remote)

    def find(self, model: str) -> tuple[Upstream, str] | None:
        """The upstream of a model and the model's name there; None where nothing is configured for it.

        In this order: the name itself, ``upstream/model``, a pattern with ``*``, an upstream without a list of models.
        """
        for upstream in self.all:
            if model in upstream.models:
                return upstream, model
        prefix, _, rest = model.partition("/")
        for upstream in self.all:
            if rest and upstream.name == prefix:
                return upstream, rest
        for upstream in self.all:
            if upstream.matches(model):
                return upstream, model
        return next(((upstream, model) for upstream in self.all if not upstream.models), None)

    async def close(self) -> None:
        """Close all connections."""
        for upstream in self._local:
            upstream.close()
        await self._client.aclose()


def _client() -> httpx.AsyncClient:
    # Servers close a connection that idles for 5 s (uvicorn's default): ours go first.
    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=4.0)
    # Cookies of an upstream are nobody's: the jar would carry them from one tenant to the next.
    return httpx.AsyncClient(
        limits=limits, follow_redirects=False, cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    )
