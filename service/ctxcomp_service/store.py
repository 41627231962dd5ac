"""Where originals are kept: SQLite, or Redis."""

from __future__ import annotations

from typing import Protocol

from ctxcomp_service.settings import StoreSettings


class Store(Protocol):
    """Texts by tenant and id, for a time."""

    secret: bytes

    async def open(self) -> None:
        """Connect; afterwards ``secret`` is there."""

    async def put(self, tenant: str, key: str, text: str) -> None:
        """Keep a text."""

    async def get(self, tenant: str, key: str) -> str | None:
        """The text, None where there is none for this tenant."""

    async def purge(self) -> None:
        """Delete what has expired."""

    async def close(self) -> None:
        """Disconnect."""


def open_store(settings: StoreSettings) -> Store:
    """The store that the settings name; `Store.open` connects."""
    if settings.kind == "redis":
        from ctxcomp_service.store_redis import RedisStore

        return RedisStore(settings)
    from ctxcomp_service.store_sqlite import SqliteStore

    return SqliteStore(settings)
