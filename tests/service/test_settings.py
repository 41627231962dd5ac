"""Settings: from the environment and a file, and what is said when they are wrong."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from ctxcomp import InputError
from ctxcomp_service.app import create_app
from ctxcomp_service.settings import Settings, Upstream, load_settings, unknown_variables

HASH = "0" * 64
FILE = f"""
port = 9000
method = "fast"

[defaults]
budget = {{ keep = 0.2 }}
requests_per_minute = 60

[[keys]]
id = "one"
tenant = "alice"
sha256 = "{HASH}"
on_failure = "input"
budget = {{ tokens = 500 }}

[methods.fast]
method = "sentence_pruner"
fields = {{ cross_passages = 8 }}

[methods.bm25]

[store]
ttl_seconds = 60
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def config(monkeypatch, tmp_path):
    def write(text):
        path = tmp_path / "ctxcomp.toml"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setenv("CTXCOMP_CONFIG", str(path))

    return write


def test_the_defaults_start(tmp_path):
    settings = load_settings()
    assert settings.host == "127.0.0.1"
    assert settings.store.path == tmp_path / "state" / "ctxcomp" / "originals.sqlite"
    create_app(settings)


def test_a_file_and_the_environment_which_wins(config, monkeypatch):
    config(FILE)
    monkeypatch.setenv("CTXCOMP_PORT", "9001")
    monkeypatch.setenv("CTXCOMP_STORE__TENANT_BYTES", "1000")
    monkeypatch.setenv("CTXCOMP_ALLOWED_HOSTS", '["a.example"]')
    settings = load_settings()
    assert (settings.port, settings.store.ttl_seconds, settings.store.tenant_bytes) == (9001, 60, 1000)
    assert settings.allowed_hosts == ("a.example",)
    service = create_app(settings).state.service
    [caller] = service.keyring._by_hash.values()
    assert (caller.tenant, caller.method, caller.budget.tokens, caller.on_failure) == ("alice", "fast", 500, "input")
    assert caller.allowance.requests.capacity == 60
    assert service.catalogue.plan("fast", {}, None).compressor.cross_passages == 8
    assert "cross_passages" not in [o.name for o in service.catalogue.described["fast"].options]
    with pytest.raises(InputError, match="cross_passages"):
        service.catalogue.plan("fast", {"cross_passages": 0}, None)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"port": 70_000}, ["port", "70000", "65535"]),
        ({"prot": 1}, ["prot", "not permitted"]),
        ({"host": "0.0.0.0"}, ["0.0.0.0", "allow_anonymous", "--new-key"]),
        ({"limits": {"seconds": "soon"}}, ["limits.seconds", "'soon'"]),
        ({"limits": {"second": 1}}, ["limits.second"]),
        ({"batching": {"wait_ms": -1}}, ["batching.wait_ms", "-1", "greater than or equal to 0"]),
        ({"store": {"kind": "redis"}}, ["store", "redis_url"]),
        ({"defaults": {"budget": {}}}, ["defaults.budget", "exactly one"]),
        ({"defaults": {"budget": {"keep": 1.5}}}, ["defaults.budget.keep", "1.5", "less than or equal to 1"]),
        ({"keys": [{"id": "a", "tenant": "t", "sha256": "secret"}]}, ["keys.0.sha256"]),
        ({"keys": [{"id": "a b", "tenant": "t", "sha256": HASH}]}, ["keys.0.id"]),
        ({"keys": [{"id": i, "tenant": "t", "sha256": HASH} for i in "ab"]}, ["two keys", "sha256"]),
        ({"upstreams": {"x": {"url": "ftp://x"}}}, ["upstreams.x.url"]),
        ({"otlp_endpoint": "collector"}, ["otlp_endpoint"]),
    ],
)
def test_what_is_said_of_wrong_settings(given, told):
    with pytest.raises(InputError, match="wrong settings") as raised:
        load_settings(**given)
    for word in told:
        assert word in str(raised.value)
    assert "'secret'" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"method": "bm52"}, "bm52"),
        ({"defaults": {"method": "nothing"}}, "nothing"),
        ({"defaults": {"methods": ("nothing",)}}, "nothing"),
        ({"methods": {"bm25": {"fields": {"k2": 1}}}, "method": "bm25"}, "k2"),
        ({"methods": {"bm25": {}}}, "sentence_pruner"),
        ({"counters": {"my-model": "/no/such/tokenizer"}}, "/no/such/tokenizer"),
    ],
)
def test_what_is_said_of_methods_that_are_not_there(given, told):
    with pytest.raises(InputError, match=told):
        create_app(load_settings(**given))


def test_a_file_that_is_not_there_or_no_toml(config, monkeypatch):
    monkeypatch.setenv("CTXCOMP_CONFIG", "/no/such/file.toml")
    with pytest.raises(InputError, match=r"/no/such/file\.toml"):
        load_settings()
    config("port = = 3")
    with pytest.raises(InputError, match="TOML"):
        load_settings()


def test_misspelt_variables_are_noticed():
    found = dict(unknown_variables({"CTXCOMP_PROT": "1", "CTXCOMP_STORE__TTL_SECONDS": "1", "PORT": "1"}))
    assert found == {"CTXCOMP_PROT": "did you mean CTXCOMP_PORT?"}


def test_beyond_loopback_with_keys_or_on_purpose():
    key = {"id": "a", "tenant": "t", "sha256": HASH}
    assert Settings(host="0.0.0.0", keys=(key,)).host == "0.0.0.0"
    assert Settings(host="0.0.0.0", allow_anonymous=True).allow_anonymous
    for host in ("localhost", "127.0.0.2", "::1"):
        assert Settings(host=host).host == host


def test_the_readme_names_every_setting(root):
    def names(model, prefix=""):
        for name, field in model.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from names(kind, f"{prefix}{name}.")
            else:
                yield prefix + name

    text = (root / "service" / "README.md").read_text(encoding="utf-8")
    missing = [name for name in [*names(Settings), *Upstream.model_fields] if f"`{name}`" not in text]
    assert not missing
