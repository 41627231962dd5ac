"""A service in a process of its own, for the benchmarks: its address, its key, its memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from ctxcomp_eval.provenance import ROOT
from ctxcomp_service.auth import hash_key, new_key

START_SECONDS = 120.0


class ServiceProcess:
    """`ctxcomp serve` with settings from the environment; a context manager.

    Parameters
    ----------
    settings: variables without their prefix, as in ``{"BATCHING__ENABLED": "false"}``.
    """

    def __init__(self, **settings: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.key = new_key()
        self.headers = {"authorization": f"Bearer {self.key}"}
        keys = f'[{{"id": "bench", "tenant": "bench", "sha256": "{hash_key(self.key)}"}}]'
        own = {"KEYS": keys, "STORE__PATH": str(Path(self._folder.name) / "originals.sqlite")}
        environment = {f"CTXCOMP_{name}": value for name, value in {**own, **settings}.items()}
        paths = os.pathsep.join([str(ROOT), str(ROOT / "service"), os.environ.get("PYTHONPATH", "")])
        self._log = Path(self._folder.name) / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ctxcomp", "serve", "--port", "0"],
                env={**os.environ, "PYTHONPATH": paths, **environment}, stderr=log,
            )  # fmt: skip
        self.url = self._wait()

    def _wait(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            found = re.search(r"running on (http://\S+)", self._log.read_text(encoding="utf-8"))
            if found and _is_ready(found[1]):
                return found[1]
            time.sleep(0.1)
        self.process.kill()
        self.process.wait()
        raise RuntimeError(f"the service did not start:\n{self._log.read_text(encoding='utf-8')}")

    def rss_bytes(self) -> int:
        """Resident memory of the process now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="utf-8").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def log(self) -> str:
        """What it has written to standard error."""
        return self._log.read_text(encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()
            self._folder.cleanup()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False
