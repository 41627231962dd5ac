"""`ctxcomp serve` as a process: its messages, keys that it makes, and how it stops under load."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

from ctxcomp.cli import main
from ctxcomp_service.auth import hash_key

BODY = {"query": "Who wrote it?", "passages": ["George Eliot wrote it. It has eight parts."], "budget": {"keep": 0.5}}


@pytest.fixture
def serve(tmp_path, root):
    """`serve(*flags, **environment)` -> (process, url, lines of its log)."""
    processes = []

    def start(*flags, **environment):
        folders = os.pathsep.join(str(root / folder) for folder in (".", "service"))
        own = {"PYTHONPATH": folders, "XDG_STATE_HOME": str(tmp_path), "CTXCOMP_METHOD": "bm25", **environment}
        command = [sys.executable, "-m", "ctxcomp", "serve", "--port", "0", *flags]
        process = subprocess.Popen(
            command, env={**os.environ, **own}, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        processes.append(process)
        lines, pending = [], queue.Queue()

        def read():
            for line in process.stderr:
                lines.append(line)
                pending.put(line)
            pending.put("")

        threading.Thread(target=read, daemon=True).start()
        while line := pending.get(timeout=60):
            if found := re.search(r"running on (http://\S+)", line):
                _wait_until_ready(found[1])
                return process, found[1], lines
        raise RuntimeError("".join(lines))

    yield start
    for process in processes:
        process.terminate()
        try:
            process.wait(20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stderr.close()


def _wait_until_ready(url):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        time.sleep(0.05)
    raise RuntimeError("not ready")


def test_a_new_key_is_shown_once_and_works(serve, tmp_path, capsysbinary):
    assert main(["serve", "--new-key", "alice"]) == 0
    printed = capsysbinary.readouterr().out.decode()
    key = re.search(r"ctxc_\S+", printed)[0]
    assert len(key) > 40
    snippet = printed[printed.index("[[keys]]") :]
    assert key not in snippet
    assert hash_key(key) in snippet
    config = tmp_path / "c.toml"
    config.write_text("\n".join(line.strip() for line in snippet.splitlines()), encoding="utf-8")
    _, url, lines = serve("--config", str(config))
    assert httpx.get(f"{url}/v1/methods").status_code == 401
    assert httpx.get(f"{url}/v1/methods", headers={"x-api-key": key}).status_code == 200
    assert not any("no keys" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (["--host", "0.0.0.0"], {}, "allow_anonymous"),
        (["--port", "99999"], {}, "99999"),
        ([], {"CTXCOMP_LIMITS__SECONDS": "soon"}, "limits.seconds"),
        (["--config", "/no/such.toml"], {}, "/no/such.toml"),
        (["--new-key", "a b"], {}, "'a b'"),
        (["--nothing"], {}, "--nothing"),
    ],
)
def test_wrong_settings_end_with_one_line(monkeypatch, capsys, arguments, environment, told):
    for name in ("HOST", "PORT", "WORKERS", "CONFIG"):  # flags go into the environment, and must leave it again
        monkeypatch.setenv(f"CTXCOMP_{name}", "")
        monkeypatch.delenv(f"CTXCOMP_{name}")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    try:
        status = main(["serve", *arguments])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1


def test_logs_are_json_with_request_ids_and_say_that_it_is_open(serve):
    _, url, lines = serve(CTXCOMP_PROT="1")
    httpx.post(f"{url}/v1/compress", json=BODY, headers={"x-request-id": "my-id"})
    deadline = time.monotonic() + 10
    while not any("my-id" in line for line in lines) and time.monotonic() < deadline:
        time.sleep(0.05)
    records = [json.loads(line) for line in lines]
    assert any("no keys are configured" in r["message"] for r in records)
    assert any("did you mean CTXCOMP_PORT?" in r["message"] for r in records)
    [request] = [r for r in records if r["message"] == "request" and r["route"] != "/readyz"]
    assert (request["route"], request["status"], request["request_id"]) == ("/v1/compress", 200, "my-id")
    assert not any("Eliot" in line for line in lines)


def test_every_accepted_request_is_answered_on_sigterm(serve):
    process, url, lines = serve(CTXCOMP_DRAIN_SECONDS="0.7", CTXCOMP_CACHE_BYTES="0")
    stopped, answers, failures, readiness = threading.Event(), [], [], []

    def client(n):
        with httpx.Client(base_url=url, timeout=30) as http:
            i = 0
            while not stopped.is_set():
                i += 1
                try:
                    answers.append(http.post("/v1/compress", json={**BODY, "query": f"{n} {i}"}).status_code)
                except httpx.ConnectError:
                    return  # it takes no more connections
                except httpx.TransportError as error:
                    failures.append(error)
                    return

    def balancer():
        with httpx.Client(base_url=url, timeout=30) as http:
            while not stopped.is_set():
                try:
                    readiness.append(http.get("/readyz").status_code)
                except httpx.TransportError:
                    return
                if readiness[-1] != 200:
                    stopped.set()  # as a load balancer does, nothing more is sent
                time.sleep(0.05)

    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        tasks = [pool.submit(client, n) for n in range(8)] + [pool.submit(balancer)]
        time.sleep(1)
        before = len(answers)
        process.send_signal(signal.SIGTERM)
        for task in tasks:
            task.result(30)
    assert readiness[-1] == 503
    assert not failures
    assert set(answers) == {200}
    assert len(answers) > before > 0
    assert process.wait(20) in (0, -signal.SIGTERM)
    assert not any('"level": "error"' in line for line in lines)


def test_work_in_progress_is_finished_on_sigterm(serve):
    process, url, _ = serve(CTXCOMP_DRAIN_SECONDS="0", CTXCOMP_METHOD="sentence_pruner")
    long = {**BODY, "passages": [f"{i} The novel has eight parts. Blackwood published it. " * 10 for i in range(60)]}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        task = pool.submit(httpx.post, f"{url}/v1/compress", json=long, timeout=60)
        time.sleep(0.5)
        assert not task.done()
        process.send_signal(signal.SIGTERM)
        assert task.result(60).status_code == 200
    assert process.wait(20) in (0, -signal.SIGTERM)


def test_several_workers_share_metrics_and_originals(serve):
    _, url, lines = serve("--workers", "2")
    for i in range(20):
        assert httpx.post(f"{url}/v1/compress", json={**BODY, "query": str(i)}).status_code == 200
    counts = re.findall(
        r'ctxcomp_requests_total\{route="/v1/compress",status="200"\} (\S+)', httpx.get(f"{url}/metrics").text
    )
    assert counts == ["20.0"]
    assert any("counts rates and quotas for itself" in line for line in lines)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_what_the_readme_shows_on_a_console_runs(serve, root):
    [block] = re.findall(r"```console\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    commands = [part.strip() for part in block.split("$ ") if part.strip()]
    assert commands[0].startswith("ctxcomp serve")
    _, url, _ = serve(CTXCOMP_METHOD="sentence_pruner")
    curl = commands[1].replace("http://127.0.0.1:8000", url)
    done = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout)["text"] == "George Eliot wrote Middlemarch."
