"""GET /v1/retrieve/{id}: the original of what was compressed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from ctxcomp_service.auth import Known
from ctxcomp_service.errors import documented
from ctxcomp_service.schemas import OriginalResponse

router = APIRouter()

OriginalId = Annotated[str, Path(pattern="^[0-9a-f]{24}$", examples=["0f1e2d3c4b5a69788796a5b4"])]
Asked = Annotated[str | None, Query(max_length=10_000, description="Accepted, as gateways send it; without effect.")]


@router.get("/v1/retrieve/{original_id}", responses=documented(401, 404, 429), tags=["compress"])
async def retrieve(request: Request, caller: Known, original_id: OriginalId, query: Asked = None) -> OriginalResponse:
    """The original text, for the tenant that sent it and until it expires."""
    return OriginalResponse(original_content=await request.app.state.service.original(caller, original_id))
