"""`create_app`: the routes, and what surrounds them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ctxcomp.version import __version__
from ctxcomp_service import errors
from ctxcomp_service.lifecycle import draining_on_sigterm
from ctxcomp_service.middleware import Authenticated, BodyBound, Observed, StopsWithClient
from ctxcomp_service.routes import chat, compress, health, methods, models, page, retrieve
from ctxcomp_service.service import Service
from ctxcomp_service.settings import Settings, is_loopback, load_settings

ROUTES = (compress, retrieve, methods, chat, models, page, health)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service as an ASGI application; ``app.state.service`` holds its state.

    Raises
    ------
    InputError: a setting is wrong; the message says which.
    """
    settings = settings or load_settings()
    service = Service(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            with draining_on_sigterm(service, settings.drain_seconds):
                yield
        finally:
            await service.stop()

    app = FastAPI(
        title="ctxcomp", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Context compression for RAG: the fewest tokens that still hold the answer.",
    )  # fmt: skip
    app.state.service = service
    errors.install(app)
    for module in ROUTES:
        app.include_router(module.router)
    # The last one added is the outermost.
    app.add_middleware(BodyBound, most=settings.limits.body_bytes, seconds=settings.limits.seconds)
    app.add_middleware(StopsWithClient)
    app.add_middleware(Authenticated)
    if hosts := _hosts(settings):
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    app.add_middleware(Observed)
    return app


def _hosts(settings: Settings) -> list[str]:
    """An open service on loopback answers to loopback names only: a page elsewhere must not reach it by a DNS trick."""
    if settings.allowed_hosts:
        return list(settings.allowed_hosts)
    return ["localhost", "127.0.0.1", "[::1]", "::1"] if not settings.keys and is_loopback(settings.host) else []
