"""GET /v1/methods: what a caller may ask for."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request

from ctxcomp_service.auth import Caller, Known
from ctxcomp_service.errors import documented
from ctxcomp_service.schemas import BudgetOut, LimitsOut, MethodOut, MethodsResponse, OptionOut
from ctxcomp_service.service import Service

router = APIRouter()


@router.get("/v1/methods", responses=documented(401, 429), tags=["compress"])
async def methods(request: Request, caller: Known) -> MethodsResponse:
    """The methods, their options, the default budget and the limits."""
    return await asyncio.to_thread(_methods, request.app.state.service, caller)


def _methods(service: Service, caller: Caller) -> MethodsResponse:
    catalogue, limits = service.catalogue, service.settings.limits
    found = [
        MethodOut(
            name=name,
            summary=description.summary,
            options=[OptionOut(name=o.name, takes=o.takes, default=o.default) for o in description.options],
        )
        for name, description in catalogue.described.items()
        if caller.may_use(name)
    ]
    budget = BudgetOut(tokens=caller.budget.tokens, keep=caller.budget.keep) if caller.budget else None
    own = LimitsOut(**limits.model_dump(include=set(LimitsOut.model_fields)))
    return MethodsResponse(default=caller.method, budget=budget, methods=found, limits=own)
