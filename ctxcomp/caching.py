"""`Cached`: the same request is compressed once, across processes if a file is given."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctxcomp.compressor import Compressor
from ctxcomp.counting import resolve_counter
from ctxcomp.encode.options import EncoderOptions
from ctxcomp.errors import CacheError, InputError
from ctxcomp.types import CompressedText, Request, Span, Stats
from ctxcomp.version import __version__

log = logging.getLogger(__name__)

_PROBE = "Counts of this tell 12,345 tokenizers apart: naïve façade, 北京 東京 서울, Привет, def f(x):\n\treturn x ** 2"


@dataclass(frozen=True, kw_only=True, eq=False)
class Cached(Compressor[CompressedText]):
    """Remembers results by content: query, passages, budget, method, settings, weights and version.

    A damaged entry is detected by its checksum, reported in the log and computed again; a file that is no database
    any more is set aside as ``<name>.damaged``.

    Parameters
    ----------
    inner: the compressor to remember.
    path: an SQLite file, shared by processes; None for memory only.
    memory_entries: results kept in memory, the least recently used leave first.
    """

    inner: Compressor[CompressedText]
    path: str | Path | None = None
    memory_entries: int = 1024
    _memory: OrderedDict[str, str] = field(default_factory=OrderedDict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

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
                with self._open() as db:
                    db.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", (key, payload, _digest(payload)))
                db.close()

    def _remember(self, key: str, payload: str) -> None:
        self._memory[key] = payload
        while len(self._memory) > self.memory_entries:
            self._memory.popitem(last=False)

    def _read(self, key: str) -> str | None:
        with self._open() as db:
            row = db.execute("SELECT payload, digest FROM results WHERE key = ?", (key,)).fetchone()
        db.close()
        if row is None:
            return None
        if not isinstance(row[0], str) or _digest(row[0]) != row[1]:
            log.warning("a cache entry in %s is damaged and is computed again", self.path)
            return None
        self._remember(key, row[0])
        return row[0]

    def _open(self) -> sqlite3.Connection:
        path = Path(self.path or "")
        try:
            try:
                return _connect(path)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                aside = path.with_name(path.name + ".damaged")
                path.replace(aside)
                log.warning("the cache %s is damaged (%s): set aside as %s, starting anew", path, error, aside)
                return _connect(path)
        except (OSError, sqlite3.Error) as error:
            raise CacheError(f"the cache {path} cannot be used ({error}): give a writable file, or none") from error


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=30)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, payload TEXT, digest TEXT)")
    except sqlite3.Error:
        db.close()
        raise
    return db


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
        if isinstance(value, EncoderOptions):
            described["weights"] = value.weights_hash()
        return [type(value).__module__, type(value).__qualname__, __version__, described]
    raise InputError(f"cannot cache results of a compressor whose settings hold {value!r}: use plain values")


def _key(method: str, request: Request) -> str:
    passages = [[p.text, p.id, p.title, p.score, _plain(p.embedding), _protect(p.metadata)] for p in request.passages]
    budget = [request.budget.tokens, request.budget.keep]
    return _digest(json.dumps([method, request.query, passages, budget]))


def _plain(embedding: Sequence[float] | None) -> list[float] | None:
    return None if embedding is None else [float(x) for x in embedding]


def _protect(metadata: Any) -> Any:
    return [[int(a), int(b)] for a, b in metadata.get("protect", ())]


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
