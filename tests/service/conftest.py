"""Real servers on loopback, for every test of the service."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

import uvicorn

from ctxcomp_service import Settings, create_app

START_SECONDS = 60


class Server:
    """A real uvicorn server in a thread; `url` is where it listens, `app.state.service` its state."""

    def __init__(self, settings: Settings) -> None:
        self.app = create_app(settings)
        config = uvicorn.Config(
            self.app, port=0, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=10
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the server did not start")
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.service = self.app.state.service

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture(scope="session")
def make_settings(tmp_path_factory) -> Callable[..., Settings]:
    """Settings whose store lies in a temporary folder, and that read no file and load no model."""

    def make(**given) -> Settings:
        store = {"path": tmp_path_factory.mktemp("store") / "originals.sqlite", **given.pop("store", {})}
        return Settings(**{"preload": False, "method": "bm25", **given}, store=store)

    return make


@pytest.fixture(scope="session")
def live_servers(make_settings) -> Iterator[Callable[..., Server]]:
    """`live_servers(**settings)` -> a running `Server`; all stop at the end of the session."""
    servers: list[Server] = []

    def start(settings: Settings | None = None, **given) -> Server:
        servers.append(Server(settings or make_settings(**given)))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def live_server(live_servers) -> Callable[..., str]:
    """`live_server(settings)` or `live_server(**settings)` -> its base url."""
    return lambda settings=None, **given: live_servers(settings, **given).url
