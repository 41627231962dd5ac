"""``ctxcomp serve``: settings, logs and uvicorn."""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import tempfile
from collections.abc import Sequence

import uvicorn
from fastapi import FastAPI

from ctxcomp.cli import Parser, write_out
from ctxcomp.errors import InputError
from ctxcomp.loading import open_checkpoint
from ctxcomp_service.app import create_app
from ctxcomp_service.auth import hash_key, new_key
from ctxcomp_service.logs import configure
from ctxcomp_service.metrics import MULTIPROCESS_VARIABLE
from ctxcomp_service.settings import PREFIX, Settings, load_settings, unknown_variables

log = logging.getLogger("ctxcomp_service")

SHUTDOWN_SPARE_SECONDS = 5.0
GENERATOR_OPTIONS = {
    "NAME": "how requests name the model (default: the directory's name)",
    "WEIGHTS": "quantize the weights with this method, rtn for example",
    "BITS": "of quantized weights (default: 4)",
    "CALIBRATION": "texts for methods that calibrate: .txt, .jsonl or a folder",
    "KV": "KV cache policy, kivi4 for example (default: whole)",
    "DEVICE": "cpu, cuda or cuda:N (default: cuda where there is one)",
    "DTYPE": "of what is not quantized (default: the checkpoint's)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the service until it is told to stop; returns the exit status.

    Raises
    ------
    InputError: a setting is wrong; the message names it.
    ModelError: there is no such generator.
    """
    given = _parser().parse_args(arguments)
    if given.new_key is not None:
        write_out(_key_snippet(given.new_key))
        return 0
    # Worker processes read the settings for themselves, and from the environment.
    flags = {"HOST": given.host, "PORT": given.port, "WORKERS": given.workers, "CONFIG": given.config}
    flags |= {f"GENERATOR__{name}": getattr(given, f"generator_{name.lower()}") for name in GENERATOR_OPTIONS}
    flags["GENERATOR__PATH"] = given.generator
    os.environ |= {f"{PREFIX}{name}": str(value) for name, value in flags.items() if value is not None}
    settings = load_settings()
    configure(settings.log_level, settings.log_format)
    if settings.generator is not None:
        open_checkpoint(settings.generator.path)
    app = create_app(settings)
    _announce(settings)
    _run(app, settings)
    return 0


def worker_app() -> FastAPI:
    """The application of one of several worker processes."""
    settings = load_settings()
    configure(settings.log_level, settings.log_format)
    return create_app(settings)


def _run(app: FastAPI, settings: Settings) -> None:
    several = settings.workers > 1
    if several:
        os.environ.setdefault(MULTIPROCESS_VARIABLE, tempfile.mkdtemp(prefix="ctxcomp-metrics-"))
    uvicorn.run(
        "ctxcomp_service.serve:worker_app" if several else app,
        factory=several,
        host=settings.host,
        port=settings.port,
        workers=settings.workers if several else None,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(settings.limits.seconds + SHUTDOWN_SPARE_SECONDS),
    )


def _announce(settings: Settings) -> None:
    for name, hint in unknown_variables(os.environ):
        log.warning("the environment's %s is no setting: %s", name, hint)
    if not settings.keys:
        log.warning("no keys are configured: everyone who can reach %s is answered", settings.host)
    if settings.workers > 1 and settings.generator:
        log.warning("each of %d workers holds the model %s of its own", settings.workers, settings.generator.model)
    if settings.workers > 1:
        log.warning("each of %d workers counts rates and quotas for itself", settings.workers)


def _key_snippet(tenant: str) -> str:
    if not tenant.replace("-", "").replace("_", "").isalnum() or len(tenant) > 50:
        raise InputError(f"a tenant's name has letters, digits, - and _, at most 50, got {tenant!r}")
    key = new_key()
    return (
        f"The key of {tenant}, which is shown only now:\n\n    {key}\n\nFor the configuration file:\n\n"
        f'    [[keys]]\n    id = "{tenant}-{secrets.token_hex(3)}"\n    tenant = "{tenant}"\n'
        f'    sha256 = "{hash_key(key)}"\n'
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="ctxcomp serve", description="Run the HTTP service and gateway.")
    parser.add_argument("--host", help="where to listen (default: 127.0.0.1, this machine only)")
    parser.add_argument("--port", type=int, help="default: 8000")
    parser.add_argument("--workers", type=int, metavar="N", help="processes; each loads the models (default: 1)")
    parser.add_argument("--config", metavar="FILE", help="settings as TOML; the environment and options win")
    parser.add_argument("--generator", metavar="PATH", help="serve the model of this checkpoint directory as well")
    for name, text in GENERATOR_OPTIONS.items():
        parser.add_argument(f"--generator-{name.lower()}", metavar=name, help=text)
    parser.add_argument("--new-key", metavar="TENANT", help="print a new API key and its configuration, and end")
    return parser
