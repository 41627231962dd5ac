"""Originals in an SQLite file, in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from ctxcomp.errors import CacheError
from ctxcomp_service.settings import StoreSettings

T = TypeVar("T")

LOCK_SECONDS = 10.0
SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA secure_delete = ON;
CREATE TABLE IF NOT EXISTS originals (
    tenant TEXT NOT NULL, id TEXT NOT NULL, text BLOB NOT NULL, bytes INTEGER NOT NULL, expires REAL NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX IF NOT EXISTS by_age ON originals (tenant, expires);
CREATE INDEX IF NOT EXISTS by_expiry ON originals (expires);
CREATE TABLE IF NOT EXISTS usage (tenant TEXT PRIMARY KEY, bytes INTEGER NOT NULL);
CREATE TRIGGER IF NOT EXISTS counted AFTER INSERT ON originals BEGIN
    INSERT INTO usage VALUES (new.tenant, new.bytes) ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER IF NOT EXISTS discounted AFTER DELETE ON originals BEGIN
    UPDATE usage SET bytes = bytes - old.bytes WHERE tenant = old.tenant;
END;
CREATE TABLE IF NOT EXISTS secret (one INTEGER PRIMARY KEY CHECK (one = 1), value BLOB NOT NULL);
"""
PUT = "INSERT INTO originals VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET expires = excluded.expires"
GET = "SELECT text FROM originals WHERE tenant = ? AND id = ? AND expires > ?"
DROP = "DELETE FROM originals WHERE rowid IN (SELECT rowid FROM originals WHERE tenant = ? ORDER BY expires LIMIT 1)"
LARGEST = "SELECT tenant FROM usage ORDER BY bytes DESC LIMIT 1"


class SqliteStore:
    """Texts by tenant and id; expired ones go first, then the oldest of whoever is over its bound.

    Raises
    ------
    CacheError: the file cannot be opened, read or written.
    """

    secret: bytes

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ctxcomp-store")
        self._db: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open the file, readable by its owner only, and read or make the secret of the ids."""
        await self._do(self._open)

    async def put(self, tenant: str, key: str, text: str) -> None:
        """Keep a text until it expires."""
        data = text.encode("utf-8", "surrogatepass")
        if len(data) <= min(self._settings.tenant_bytes, self._settings.bytes):
            await self._do(lambda: self._put(tenant, key, data))

    async def get(self, tenant: str, key: str) -> str | None:
        """The text, None where there is none for this tenant."""
        row = await self._do(lambda: self._execute(GET, tenant, key, time.time()).fetchone())
        return None if row is None else bytes(row[0]).decode("utf-8", "surrogatepass")

    async def purge(self) -> None:
        """Delete what has expired."""
        await self._do(lambda: self._execute("DELETE FROM originals WHERE expires <= ?", time.time()))

    async def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            await self._do(self._db.close)
        self._thread.shutdown()

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (OSError, sqlite3.Error) as error:
            path = self._settings.path
            raise CacheError(f"the store {path} cannot be used ({error}): set store.path to a writable file") from error

    def _open(self) -> None:
        path = self._settings.path
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._db = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)
        self._db.executescript(SCHEMA)
        self._execute("INSERT OR IGNORE INTO secret VALUES (1, ?)", secrets.token_bytes(32))
        self.secret = self._execute("SELECT value FROM secret").fetchone()[0]

    def _execute(self, statement: str, *values: str | float | bytes) -> sqlite3.Cursor:
        if self._db is None:
            raise sqlite3.ProgrammingError("it is not open")
        return self._db.execute(statement, values)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._execute("ROLLBACK")
            raise
        self._execute("COMMIT")

    def _put(self, tenant: str, key: str, data: bytes) -> None:
        now = time.time()
        with self._transaction():
            self._execute("DELETE FROM originals WHERE expires <= ?", now)
            self._execute(PUT, tenant, key, data, len(data), now + self._settings.ttl_seconds)
            while self._used("WHERE tenant = ?", tenant) > self._settings.tenant_bytes:
                self._execute(DROP, tenant)
            while self._used("") > self._settings.bytes:
                self._execute(DROP, self._execute(LARGEST).fetchone()[0])

    def _used(self, where: str, *values: str) -> int:
        return int(self._execute(f"SELECT TOTAL(bytes) FROM usage {where}", *values).fetchone()[0])
