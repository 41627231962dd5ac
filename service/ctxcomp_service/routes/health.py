"""/healthz, /readyz and /metrics."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from ctxcomp_service.errors import ServiceError, documented

router = APIRouter(tags=["operation"])


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


@router.get("/healthz", responses=documented())
async def healthz() -> Health:
    """The process is alive."""
    return Health()


@router.get("/readyz", responses=documented(503))
async def readyz(request: Request) -> Health:
    """Requests are welcome: the default method is loaded, and the service is not about to stop."""
    service = request.app.state.service
    if not service.is_ready:
        raise ServiceError(503, "not_ready", "stopping" if service.draining else "not loaded", retry_after=1)
    return Health()


@router.get("/metrics", response_class=Response, responses=documented() | {200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(request.app.state.service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
