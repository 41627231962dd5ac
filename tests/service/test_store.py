"""Originals: SQLite, and the real Redis client against fakeredis' TCP server (not against Redis itself)."""

from __future__ import annotations

import asyncio
import stat
import threading

import httpx
import pytest

from ctxcomp import CacheError
from ctxcomp_service.auth import hash_key, new_key
from ctxcomp_service.service import original_id
from ctxcomp_service.settings import StoreSettings
from ctxcomp_service.store import open_store

ONE, TWO = "a" * 24, "b" * 24


@pytest.fixture(scope="session")
def redis_address():
    fakeredis = pytest.importorskip("fakeredis")
    server = fakeredis.TcpFakeServer(("127.0.0.1", 0), server_type="redis")
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"redis://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture(params=["sqlite", "redis"])
def store_settings(request, tmp_path):
    if request.param == "sqlite":
        return lambda **given: StoreSettings(path=tmp_path / "sub" / "originals.sqlite", **given)
    address, databases = request.getfixturevalue("redis_address"), request.config.stash.setdefault(_DATABASES, [0])
    databases[0] += 1
    return lambda **given: StoreSettings(kind="redis", redis_url=f"{address}/{databases[0]}", **given)


_DATABASES = pytest.StashKey[list[int]]()


def run(settings, scenario):
    async def main():
        store = open_store(settings)
        await store.open()
        try:
            return await scenario(store)
        finally:
            await store.close()

    return asyncio.run(main())


def test_texts_are_kept_for_their_tenant(store_settings):
    async def scenario(store):
        await store.put("alice", ONE, "naïve 東京 \U0001f600 \ud800 text")
        await store.put("bob", TWO, "")
        return [await store.get(*at) for at in (("alice", ONE), ("bob", ONE), ("alice", TWO), ("bob", TWO))]

    assert run(store_settings(), scenario) == ["naïve 東京 \U0001f600 \ud800 text", None, None, ""]


def test_texts_and_the_secret_outlive_the_process(store_settings):
    async def put(store):
        await store.put("alice", ONE, "text")
        return store.secret

    async def get(store):
        return await store.get("alice", ONE), store.secret

    secret = run(store_settings(), put)
    assert len(secret) == 32
    assert run(store_settings(), get) == ("text", secret)


def test_texts_expire(store_settings):
    async def scenario(store):
        await store.put("alice", ONE, "text")
        before = await store.get("alice", ONE)
        await asyncio.sleep(1.1)
        after = await store.get("alice", ONE)
        await store.purge()
        await store.put("alice", TWO, "other")
        return before, after, await store.get("alice", TWO)

    assert run(store_settings(ttl_seconds=1), scenario) == ("text", None, "other")


def test_a_tenant_has_a_bound_and_loses_its_oldest(store_settings):
    async def scenario(store):
        await store.put("bob", ONE, "b" * 90)
        for i in range(10):
            await store.put("alice", f"{i:024x}", "a" * 30)
            await asyncio.sleep(0.002)
        await store.put("alice", "f" * 24, "x" * 101)  # alone more than there is room for: not kept
        kept = [i for i in range(10) if await store.get("alice", f"{i:024x}")]
        return kept, await store.get("alice", "f" * 24), await store.get("bob", ONE)

    kept, large, other = run(store_settings(tenant_bytes=100), scenario)
    assert 9 in kept
    assert 1 <= len(kept) <= 3
    assert kept == list(range(10 - len(kept), 10))
    assert large is None
    assert other == "b" * 90


def test_putting_the_same_text_again_keeps_it_longer_and_counts_once(store_settings):
    async def scenario(store):
        for _ in range(20):
            await store.put("alice", ONE, "a" * 40)
        await store.put("alice", TWO, "b" * 40)
        return [await store.get("alice", key) for key in (ONE, TWO)]

    assert run(store_settings(tenant_bytes=100), scenario) == ["a" * 40, "b" * 40]


def test_many_at_once(store_settings):
    async def scenario(store):
        await asyncio.gather(*(store.put(f"t{i % 5}", f"{i:024x}", f"text {i}") for i in range(50)))
        return await asyncio.gather(*(store.get(f"t{i % 5}", f"{i:024x}") for i in range(50)))

    assert run(store_settings(), scenario) == [f"text {i}" for i in range(50)]


def test_all_tenants_together_have_a_bound_and_the_largest_gives_way(tmp_path):
    async def scenario(store):
        await store.put("bob", ONE, "b" * 90)
        for i in range(10):
            await store.put("alice", f"{i:024x}", "a" * 30)
        return await store.get("bob", ONE), [i for i in range(10) if await store.get("alice", f"{i:024x}")]

    settings = StoreSettings(path=tmp_path / "originals.sqlite", bytes=200)
    assert run(settings, scenario) == ("b" * 90, [7, 8, 9])


def test_the_file_is_its_owners_only(tmp_path):
    path = tmp_path / "originals.sqlite"

    async def scenario(store):
        await store.put("alice", ONE, "a text of hers")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    run(StoreSettings(path=path), scenario)


@pytest.mark.parametrize("content", [b"this is no database " * 100, None])
def test_a_store_that_cannot_be_opened(tmp_path, content):
    path = tmp_path / "originals.sqlite"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(CacheError, match=r"store\.path"):
        run(StoreSettings(path=path), lambda store: asyncio.sleep(0))


def test_a_redis_that_is_not_there():
    pytest.importorskip("redis")
    settings = StoreSettings(kind="redis", redis_url="redis://:secret-word@127.0.0.1:1/0")
    with pytest.raises(CacheError, match="Redis failed") as raised:
        run(settings, lambda store: asyncio.sleep(0))
    assert "secret-word" not in str(raised.value)
    assert "secret-word" not in repr(settings)


def test_only_its_tenant_can_retrieve_an_original(live_servers, tmp_path):
    alice, alice_too, bob = new_key(), new_key(), new_key()
    path = tmp_path / "originals.sqlite"
    server = live_servers(
        store={"path": path},
        keys=(
            {"id": "alice-1", "tenant": "alice", "sha256": hash_key(alice)},
            {"id": "alice-2", "tenant": "alice", "sha256": hash_key(alice_too)},
            {"id": "bob-1", "tenant": "bob", "sha256": hash_key(bob)},
        ),
    )
    text = "The whole text."
    secret = server.service.store.secret
    known = original_id(secret, "alice", text)
    run(StoreSettings(path=path), lambda store: store.put("alice", known, text))

    def get(key, original, **kwargs):
        return httpx.get(f"{server.url}/v1/retrieve/{original}", headers={"x-api-key": key}, **kwargs)

    for key in (alice, alice_too):
        assert get(key, known, params={"query": "what?"}).json() == {"original_content": text}
    stranger, unknown = get(bob, known), get(bob, "0" * 24)
    assert stranger.status_code == unknown.status_code == 404
    assert {**stranger.json()["error"], "request_id": ""} == {**unknown.json()["error"], "request_id": ""}
    # Nobody who knows the text can tell its id: neither of another tenant, nor without the secret.
    forged = [original_id(secret, "bob", text), original_id(b"guess", "alice", text), known[:-1] + "g", known.upper()]
    assert len({known, *forged}) == 5
    assert [get(alice, f).status_code for f in forged] == [404, 404, 422, 422]
    assert httpx.get(f"{server.url}/v1/retrieve/{known}").status_code == 401
