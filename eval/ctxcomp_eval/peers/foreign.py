"""A peer in a process and an environment of its own: started once, asked line by line."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from ctxcomp.errors import CtxcompError, MissingDependencyError

WORKER = Path(__file__).with_name("worker.py")
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HEADROOM_OFFLINE": "1", "DO_NOT_TRACK": "1"}
"""Nothing of a peer goes over the network."""


class PeerError(CtxcompError):
    """A peer failed on a call, or its process ended."""


@functools.cache
def connect(kind: str, variable: str, install: str, *arguments: str) -> Foreign:
    """The running worker of this kind and arguments; it ends with this process.

    Parameters
    ----------
    kind: what `worker.py` is to run.
    variable: the environment variable that names the peer's Python; without it, this one is tried.
    install: how to make the peer's environment, for the error.

    Raises
    ------
    MissingDependencyError: the package is not there.
    """
    python = os.environ.get(variable) or sys.executable
    foreign = Foreign(python, kind, *arguments)
    if foreign.missing is not None:
        foreign.close()
        raise MissingDependencyError(
            f"{python} has no {kind} ({foreign.missing}): make an environment with `{install}` and name its Python in "
            f"{variable}"
        )
    atexit.register(foreign.close)
    return foreign


class Foreign:
    """One worker process.

    Parameters
    ----------
    python: the interpreter of the peer's environment.
    kind, arguments: the command line of `worker.py`.

    Raises
    ------
    PeerError: the process cannot be started, or ends before it is ready.
    """

    def __init__(self, python: str, kind: str, *arguments: str) -> None:
        self.kind = kind
        self._lock = threading.Lock()
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - open till close
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONWARNINGS")}
        try:
            self._process = subprocess.Popen(
                [python, str(WORKER), kind, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=self._log, text=True, encoding="utf-8", env=environment | OFFLINE,
            )  # fmt: skip
        except OSError as error:
            self._log.close()
            raise PeerError(f"{python} cannot be started: {error.strerror}") from error
        hello = self._read()
        self.version: str | None = hello.get("ready")
        self.missing: str | None = hello.get("missing")

    def call(self, **arguments: Any) -> tuple[Any, float]:
        """The peer's result and the seconds that it took.

        Raises
        ------
        PeerError: the peer raised something, or its process ended.
        """
        with self._lock:
            if self._process.stdin is None or self._process.stdin.closed:
                raise PeerError(f"the process of {self.kind} has ended")
            with contextlib.suppress(OSError):  # if the process has ended, reading says why
                self._process.stdin.write(json.dumps(arguments) + "\n")
                self._process.stdin.flush()
            answer = self._read()
        if "error" in answer:
            raise PeerError(f"{self.kind} failed: {answer['error']}")
        return answer["result"], float(answer["seconds"])

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was not sent is lost with the process
                    stream.close()
        self._process.wait()
        self._log.close()

    def _read(self) -> dict[str, Any]:
        stdout = self._process.stdout
        line = stdout.readline() if stdout is not None else ""
        if not line:
            self._process.wait()
            self._log.seek(0)
            tail = self._log.read()[-500:].strip()
            self.close()
            raise PeerError(f"the process of {self.kind} ended: {tail or 'it said nothing'}")
        answer: dict[str, Any] = json.loads(line)
        return answer
