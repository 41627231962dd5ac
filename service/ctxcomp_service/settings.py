"""Settings: from the environment (``CTXCOMP_PORT``, ``CTXCOMP_STORE__TTL_SECONDS``) and a TOML file.

The environment wins over the file. A wrong setting stops the service at its start, with the field, what was given
and what is allowed.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ctxcomp.errors import InputError
from ctxcomp.registry import DEFAULT_METHOD

PREFIX = "CTXCOMP_"
CONFIG_VARIABLE = "CTXCOMP_CONFIG"
OTHER_VARIABLES = frozenset({CONFIG_VARIABLE, "CTXCOMP_DATA", "CTXCOMP_LLM_KEY", "CTXCOMP_PEER_PYTHON"})

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


def default_store_path() -> Path:
    """Where originals lie if no path is set: the user's state folder."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "ctxcomp" / "originals.sqlite"


class Part(BaseModel):
    """A table of the settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BudgetSettings(Part):
    """A default budget: exactly one of ``tokens`` and ``keep``."""

    tokens: int | None = Field(default=None, ge=0)
    keep: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.tokens is None) == (self.keep is None):
            raise ValueError("exactly one of tokens and keep must be set")
        return self


class Policy(Part):
    """What a caller may do. None leaves it unlimited, or to ``defaults``."""

    method: str | None = Field(default=None, description="method of requests that name none")
    methods: tuple[str, ...] | None = Field(default=None, description="methods that may be asked for")
    budget: BudgetSettings | None = Field(default=None, description="budget of requests that have none")
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = Field(default=None, description="tokens that come in")
    tokens_per_day: Positive | None = Field(default=None, description="tokens that come in")
    on_failure: Literal["closed", "input"] = Field(
        default="closed", description="closed: an error; input: the input is given back as it came, and says so"
    )
    markers: bool = Field(default=False, description="shortened messages say so in their text, with the original's id")


class Key(Policy):
    """One API key, known by its hash; `ctxcomp serve --new-key TENANT` makes one."""

    id: Name = Field(description="how logs call it")
    tenant: Name = Field(description="keys of one tenant see the same originals")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the key, hexadecimal")


class MethodSettings(Part):
    """A method that callers may ask for, under a name of its own."""

    method: str | None = Field(
        default=None, description="name in `ctxcomp list`, or several joined by +; its own name if unset"
    )
    fields: dict[str, Any] = Field(default_factory=dict, description="configuration that callers cannot change")
    options: tuple[str, ...] | None = Field(
        default=None, description="fields that callers may set; None: the usual ones"
    )


class Upstream(Part):
    """An OpenAI-compatible server that requests are forwarded to."""

    url: HttpUrl = Field(description="up to and with /v1")
    api_key: SecretStr | None = Field(default=None, description="sent to the upstream instead of the caller's key")
    models: tuple[str, ...] = Field(
        default=(), description="model names that go there; none: whatever no other one has"
    )
    pass_authorization: bool = Field(
        default=False, description="send on an Authorization that did not open this service"
    )
    connect_seconds: Seconds = 5.0
    read_seconds: Seconds = 300.0


class GeneratorSettings(Part):
    """A model of this machine, served as an upstream like any other."""

    path: str = Field(description="a checkpoint directory, or a hub id in the local cache")
    name: Name | None = Field(default=None, description="how requests name the model; the directory's name if unset")
    weights: str | None = Field(default=None, description="quantize the weights with this method at the start")
    bits: int = Field(default=4, ge=2, le=8, description="of quantized weights")
    calibration: Path | None = Field(default=None, description="texts for methods that calibrate: .txt, .jsonl, folder")
    kv: str | None = Field(default=None, description="KV cache policy, for example kivi4; none keeps it whole")
    device: str = "auto"
    dtype: str | None = Field(default=None, description="of what is not quantized; the checkpoint's own if unset")
    drafts: bool = Field(default=True, description="speculative copy: the same answers in fewer model calls")
    max_tokens: Positive = Field(default=1024, description="of answers to requests that set no bound")
    waiting: int = Field(default=16, ge=0, description="requests that wait for the model, at most; then 503")

    @property
    def model(self) -> str:
        """The model's name."""
        return self.name or re.sub(r"[^A-Za-z0-9_.-]", "-", Path(self.path).name)


class Limits(Part):
    """What one request may be; anything larger is answered with 413."""

    body_bytes: Positive = 4_194_304
    passages: Positive = 1000
    characters: Positive = 2_000_000
    query_characters: Positive = 10_000
    seconds: Seconds = Field(default=30.0, description="after which a request is answered with 504")


class Batching(Part):
    """How requests that arrive together share encoder passes."""

    enabled: bool = True
    wait_ms: float = Field(default=5.0, ge=0, le=1000, description="how long an idle worker waits for company")
    requests: Positive = Field(default=64, description="requests in one batch, at most")
    seconds: Seconds = Field(
        default=0.25, description="estimated work of one batch, at most; a longer request runs alone"
    )


class Queue(Part):
    """When a request is refused with 503: if its estimated time to the answer exceeds both bounds."""

    requests: Positive = Field(default=256, description="waiting requests, at most")
    seconds: Seconds = Field(default=1.0, description="a request that is answered within this is always accepted")
    slowdown: float = Field(default=2.5, ge=1, description="or within this many times the time it would take alone")


class StoreSettings(Part):
    """Where originals are kept for `/v1/retrieve`."""

    kind: Literal["sqlite", "redis"] = "sqlite"
    path: Path = Field(default_factory=default_store_path)
    redis_url: SecretStr | None = None
    ttl_seconds: Annotated[int, Field(ge=1, le=31_536_000)] = 3600
    bytes: Positive = Field(
        default=1_073_741_824, description="of all tenants; what is oldest of the largest leaves first"
    )
    tenant_bytes: Positive = Field(default=134_217_728, description="of one tenant; what is oldest leaves first")

    @model_validator(mode="after")
    def _redis(self) -> Self:
        if self.kind == "redis" and self.redis_url is None:
            raise ValueError("kind = 'redis' needs redis_url")
        return self


class Settings(BaseSettings):
    """All settings of the service."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535, description="0 takes a free one")
    workers: Positive = Field(default=1, description="processes; each loads the models and counts rates for itself")
    allow_anonymous: bool = Field(
        False, description="answer callers without a key; needed beyond loopback without keys"
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="accepted Host headers; none: loopback names if open, else all"
    )

    keys: tuple[Key, ...] = ()
    defaults: Policy = Policy()
    method: str = DEFAULT_METHOD
    methods: dict[str, MethodSettings] = Field(default_factory=dict, description="none: all built-in ones")
    counters: dict[str, str] = Field(default_factory=dict, description="model name -> tokenizer that counts for it")
    upstreams: dict[Name, Upstream] = Field(default_factory=dict)
    generator: GeneratorSettings | None = None

    limits: Limits = Limits()
    batching: Batching = Batching()
    queue: Queue = Queue()
    store: StoreSettings = Field(default_factory=StoreSettings)
    cache_bytes: int = Field(default=67_108_864, ge=0, description="results kept in memory; 0 keeps none")

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"
    otlp_endpoint: HttpUrl | None = Field(
        default=None, description="traces go there, for example http://collector:4318"
    )
    drain_seconds: float = Field(default=1.0, ge=0, le=600, description="after SIGTERM: still accepting, but not ready")
    preload: bool = Field(default=True, description="load the default method before the service is ready")

    @field_validator("keys")
    @classmethod
    def _distinct(cls, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        for field in ("id", "sha256"):
            values = [getattr(key, field) for key in keys]
            if len(set(values)) < len(values):
                raise ValueError(f"two keys have the same {field}")
        return keys

    @model_validator(mode="after")
    def _open_only_here(self) -> Self:
        if not self.keys and not self.allow_anonymous and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} is reachable from elsewhere and there are no keys: "
                "add keys (`ctxcomp serve --new-key TENANT`), or set allow_anonymous = true"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file that ``CTXCOMP_CONFIG`` names."""
        file = os.environ.get(CONFIG_VARIABLE)
        if not file:
            return init_settings, env_settings
        if not Path(file).is_file():
            raise InputError(f"{CONFIG_VARIABLE} names {file!r}, which is no file")
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, Path(file))


def load_settings(**given: Any) -> Settings:
    """The settings, or one error that lists all that is wrong.

    Raises
    ------
    InputError: names each wrong field, what was given and what is allowed.
    """
    try:
        return Settings(**given)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{os.environ.get(CONFIG_VARIABLE)} is not TOML: {error}") from None
    except ValidationError as error:
        raise InputError("wrong settings: " + "; ".join(map(_complaint, error.errors()))) from None


def _complaint(error: Any) -> str:
    field = ".".join(str(part) for part in error["loc"]) or "settings"
    secret = any(word in field for word in ("key", "redis_url", "sha256"))
    scalar = isinstance(error["input"], (str, int, float, bool)) and not secret
    given = f" (got {error['input']!r:.80})" if scalar else ""
    return f"{field}: {error['msg'].removeprefix('Value error, ')}{given}"


def unknown_variables(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Variables that look like settings and are none, with what may have been meant."""
    fields = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    given = [name for name in environment if name.upper().startswith(PREFIX) and name not in OTHER_VARIABLES]
    unknown = [name for name in given if name.upper().partition("__")[0] not in fields]
    near = [difflib.get_close_matches(name.upper(), fields, n=1) for name in unknown]
    return [(name, f"did you mean {n[0]}?" if n else "it is ignored") for name, n in zip(unknown, near, strict=True)]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
