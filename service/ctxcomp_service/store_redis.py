"""Originals in Redis, shared by several machines. Tested against fakeredis' TCP server, not against Redis itself."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ctxcomp.errors import CacheError
from ctxcomp.optional import require
from ctxcomp_service.settings import StoreSettings

PREFIX = "ctxcomp"
TIMEOUT_SECONDS = 5.0
AT_ONCE = 16


class RedisStore:
    """Texts by tenant and id; Redis lets them expire. The bound of all tenants is Redis' own ``maxmemory``.

    For each tenant an index by expiry, the sizes and their sum are kept beside the texts, for its bound.

    Raises
    ------
    CacheError: Redis cannot be reached.
    """

    secret: bytes

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        url = settings.redis_url.get_secret_value() if settings.redis_url else ""
        self._errors = require("redis.exceptions", extra="redis")
        self._db: Any = require("redis.asyncio", extra="redis").from_url(
            url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
        )

    async def open(self) -> None:
        """Read or make the secret of the ids; all who share the Redis share it."""
        with self._reported():
            await self._db.set(f"{PREFIX}:secret", secrets.token_bytes(32), nx=True)
            self.secret = await self._db.get(f"{PREFIX}:secret")

    async def put(self, tenant: str, key: str, text: str) -> None:
        """Keep a text until it expires."""
        data = text.encode("utf-8", "surrogatepass")
        if len(data) > self._settings.tenant_bytes:
            return
        ttl = self._settings.ttl_seconds
        index, sizes, total = _names(tenant)
        with self._reported():
            async with self._db.pipeline(transaction=True) as pipe:
                pipe.set(_text(tenant, key), data, ex=ttl)
                pipe.zadd(index, {key: time.time() + ttl})
                pipe.hsetnx(sizes, key, len(data))
                is_new = (await pipe.execute())[2]
            used = int(await self._db.incrby(total, len(data) if is_new else 0))
            await self._forget_expired(tenant)
            while used > self._settings.tenant_bytes:
                oldest = [member for member, _ in await self._db.zpopmin(index, AT_ONCE)]
                if not oldest:
                    break
                used -= await self._forget(tenant, oldest)
            async with self._db.pipeline() as pipe:
                for name in (index, sizes, total):
                    pipe.expire(name, ttl)
                await pipe.execute()

    async def get(self, tenant: str, key: str) -> str | None:
        """The text, None where there is none for this tenant."""
        with self._reported():
            data = await self._db.get(_text(tenant, key))
        return None if data is None else data.decode("utf-8", "surrogatepass")

    async def purge(self) -> None:
        """Redis forgets by itself."""

    async def close(self) -> None:
        """Disconnect."""
        await self._db.aclose()

    async def _forget_expired(self, tenant: str) -> None:
        index, _, _ = _names(tenant)
        now = time.time()
        expired = await self._db.zrangebyscore(index, "-inf", now)
        if expired:
            await self._db.zremrangebyscore(index, "-inf", now)
            await self._forget(tenant, expired)

    async def _forget(self, tenant: str, keys: list[bytes]) -> int:
        """Drop texts that have left the index; returns their bytes."""
        _, sizes, total = _names(tenant)
        freed = 0
        for key in keys:
            size = await self._db.hget(sizes, key)
            # Whoever removes the size, and nobody else, takes it off the sum.
            if size is not None and await self._db.hdel(sizes, key):
                freed += int(size)
        async with self._db.pipeline() as pipe:
            pipe.delete(*(_text(tenant, key.decode()) for key in keys))
            pipe.decrby(total, freed)
            await pipe.execute()
        return freed

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except self._errors.RedisError as error:
            raise CacheError(f"Redis failed ({type(error).__name__}): check store.redis_url and the server") from error


def _text(tenant: str, key: str) -> str:
    return f"{PREFIX}:{tenant}:text:{key}"


def _names(tenant: str) -> tuple[str, str, str]:
    return f"{PREFIX}:{tenant}:index", f"{PREFIX}:{tenant}:sizes", f"{PREFIX}:{tenant}:bytes"
