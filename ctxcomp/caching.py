"""`Cached`: the same request is compressed once, across processes if a file is given."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ctxcomp.compressor import Compressor
from ctxcomp.counting import CounterLike, resolve_counter
from ctxcomp.errors import CacheError, InputError
from ctxcomp.fields import check_fields
from ctxcomp.types import CompressedText, Request, Span, Stats
from ctxcomp.version import __version__

log = logging.getLogger(__name__)

LOCK_SECONDS = 30.0
"""How long a process waits for others to finish writing."""

_PROBE = "Counts of this tell 12,345 tokenizers apart: naïve façade, 北京 東京 서울, Привет, def f(x):\n\treturn x ** 2"


@dataclass(frozen=True, kw_only=True, eq=False)
class Cached(Compressor[CompressedText]):
    """Remembers results by content: query, passages, budget, method, settings, weights and version.

    A damaged entry is detected by its checksum, reported in the log and computed again; a file that is no database
    any more is set aside as ``<name>.damaged``. Results that are a fallback are not remembered.

    Parameters
    ----------
    inner: the compressor to remember.
    path: an SQLite file, shared by processes; None for memory only.
    memory_entries: results kept in memory, >= 0; the least recently used leave first.
    """

    inner: Compressor[CompressedText]
    path: str | Path | None = None
    memory_entries: int = 1024
    _memory: OrderedDict[str, str] = field(default_factory=OrderedDict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.memory_entries < 0:
            raise InputError(f"memory_entries must be 0 or more, got {self.memory_entries}")

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, in another process for example, shares the file but neither the memory nor the lock.
        return partial(type(self), inner=self.inner, path=self.path, memory_entries=self.memory_entries), ()

    @property
    def counter(self) -> CounterLike:
        """What the inner compressor counts with."""
        return getattr(self.inner, "counter", None)

    @property
    def name(self) -> str:
        """The inner method's name: a remembered result is that method's."""
        return self.inner.name

    def compress_batch(self, requests: Sequence[Request]) -> list[CompressedText]:
        """Remembered results; the rest in one batch. ``stats.seconds`` of a remembered one is the first run's."""
        method = fingerprint(self.inner)
        keys = [_key(method, request) for request in requests]
        found = {key: result for key, r in zip(keys, requests, strict=True) if (result := self._get(key, r))}
        missing = {key: r for key, r in zip(keys, requests, strict=True) if key not in found}
        fresh = self.inner.compress_batch(list(missing.values())) if missing else []
        for key, result in zip(missing, fresh, strict=True):
            if result.stats.fallback is None:
                self._put(key, result)
            found[key] = result
        return [dataclasses.replace(found[k], passages=r.passages) for k, r in zip(keys, requests, strict=True)]

    def _get(self, key: str, request: Request) -> CompressedText | None:
        with self._lock:
            payload = self._memory.get(key)
            if payload is not None:
                self._memory.move_to_end(key)
            elif self.path is not None:
                payload = self._read(key)
        return None if payload is None else _decode(payload, request)

    def _put(self, key: str, result: CompressedText) -> None:
        payload = _encode(result)
        with self._lock:
            self._remember(key, payload)
            if self.path is not None:
                self._write(key, payload)

    def _remember(self, key: str, payload: str) -> None:
        self._memory[key] = payload
        while len(self._memory) > self.memory_entries:
            self._memory.popitem(last=False)

    def _read(self, key: str) -> str | None:
        row = self._execute("SELECT payload, digest FROM results WHERE key = ?", (key,))
        if row is None:
            return None
        if not isinstance(row[0], str) or _digest(key + row[0]) != row[1]:
            log.warning("a cache entry in %s is damaged and is computed again", self.path)
            return None
        self._remember(key, row[0])
        return row[0]

    def _write(self, key: str, payload: str) -> None:
        values = (key, payload, _digest(key + payload))
        self._execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", values)

    def _execute(self, statement: str, values: tuple[str, ...]) -> Any:
        """The first row, if any. A damaged file is set aside, and the statement runs on a new one."""
        import sqlite3

        path = Path(self.path or "")
        try:
            try:
                return _run(path, statement, values)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                aside = path.with_name(path.name + ".damaged")
                path.replace(aside)
                log.warning("the cache %s is damaged (%s): set aside as %s, starting anew", path, error, aside)
                return _run(path, statement, values)
        except (OSError, sqlite3.Error) as error:
            raise CacheError(f"the cache {path} cannot be used ({error}): give a writable file, or none") from error


def _run(path: Path, statement: str, values: tuple[str, ...]) -> Any:
    import sqlite3

    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=LOCK_SECONDS)) as db, db:
        # A damaged row may hold bytes that are no UTF-8; its checksum tells.
        db.text_factory = lambda data: data.decode("utf-8", "replace")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, payload TEXT, digest TEXT)")
        return db.execute(statement, values).fetchone()


def fingerprint(compressor: Any) -> str:
    """What decides a compressor's results: class, settings, weights, counter and version, as a digest.

    Raises
    ------
    InputError: a setting is an object whose identity cannot be told.
    """
    return _digest(json.dumps(_describe(compressor), sort_keys=True))


def _describe(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, (tuple, list)):
        return [_describe(item) for item in value]
    if dataclasses.is_dataclass(value) and isinstance(value, Compressor):
        described = {
            f.name: _describe(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.init and f.name != "counter"
        }
        if hasattr(value, "counter"):
            counter = resolve_counter(value.counter)
            described["counter"] = [counter.name, counter.count_batch([_PROBE, *_PROBE.split()])]
        if hasattr(value, "weights_hash"):
            described["weights"] = value.weights_hash()
        return [type(value).__module__, type(value).__qualname__, __version__, described]
    raise InputError(f"cannot cache results of a compressor whose settings hold {value!r}: use plain values")


def _key(method: str, request: Request) -> str:
    passages = [
        [p.text, p.id, p.title, p.score, _plain(p.embedding), _plain(p.metadata.get("protect"))]
        for p in request.passages
    ]
    budget = [request.budget.tokens, request.budget.keep]
    # What is not plain is told apart by its repr: at worst it is never found again.
    return _digest(json.dumps([method, request.query, passages, budget], default=repr))


def _plain(numbers: Any) -> Any:
    """Numbers, or lists of numbers, of any array library as Python's."""
    return numbers.tolist() if hasattr(numbers, "tolist") else numbers


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _encode(result: CompressedText) -> str:
    spans = None if result.spans is None else [dataclasses.astuple(span) for span in result.spans]
    return json.dumps([result.text, spans, result.passage_texts, dataclasses.asdict(result.stats)])


def _decode(payload: str, request: Request) -> CompressedText:
    text, spans, passage_texts, stats = json.loads(payload)
    return CompressedText(
        text=text,
        spans=None if spans is None else tuple(Span(*span) for span in spans),
        passages=request.passages,
        passage_texts=tuple(passage_texts),
        stats=Stats(**stats),
    )
