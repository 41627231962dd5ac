"""GET /v1/models: what the upstreams serve."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from ctxcomp_service.auth import Known
from ctxcomp_service.errors import ServiceError, documented
from ctxcomp_service.relay import failure, read
from ctxcomp_service.upstreams import Upstream, Upstreams

router = APIRouter(tags=["gateway"])

LISTED = 1000
"""Models of one upstream, at most."""


class Model(BaseModel):
    """A model; what else its upstream says of it is passed on."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = ""


class Models(BaseModel):
    """OpenAI's list."""

    object: str = "list"
    data: list[Model]


@router.get("/v1/models", responses=documented(401, 429, 502, 503, 504))
async def list_models(request: Request, response: Response, caller: Known) -> Models:
    """The models of all upstreams.

    `upstream/model` reaches a model whose plain name goes elsewhere. Upstreams that do not answer are named in
    `x-ctxcomp-incomplete`.
    """
    upstreams: Upstreams = request.app.state.upstreams
    lists = await asyncio.gather(*(_models(upstream) for upstream in upstreams.all))
    failed = {u.name: found for u, found in zip(upstreams.all, lists, strict=True) if isinstance(found, ServiceError)}
    if failed and len(failed) == len(lists):
        raise next(iter(failed.values()))
    if failed:
        response.headers["x-ctxcomp-incomplete"] = ", ".join(failed)
    found = [
        Model(**{**one, "id": _name(upstreams, upstream, one["id"])})
        for upstream, models in zip(upstreams.all, lists, strict=True)
        for one in (models if isinstance(models, list) else ())
    ]
    return Models(data=found)


@router.get("/v1/models/{model:path}", responses=documented(401, 404, 429, 502, 503, 504))
async def retrieve_model(request: Request, response: Response, caller: Known, model: str) -> Model:
    """One model of the list."""
    for one in (await list_models(request, response, caller)).data:
        if one.id == model:
            return one
    raise ServiceError(404, "model_not_found", "no upstream is configured for this model, see GET /v1/models")


async def _models(upstream: Upstream) -> list[dict[str, Any]] | ServiceError:
    """What one upstream serves: as configured where that is a list of names, else as it says itself."""
    names = upstream.models
    if names and not any("*" in name for name in names):
        return [{"id": name, "owned_by": upstream.name} for name in names]
    try:
        answer = await upstream.open("GET", "/models", {"accept": "application/json"})
        try:
            body = await read(answer)
        finally:
            await answer.aclose()
    except httpx.TransportError as error:
        return failure(error, upstream.name)
    if answer.status_code != 200:
        return ServiceError(502, "upstream_failed", f"upstream {upstream.name!r} answered {answer.status_code}")
    return _parsed(body, upstream)


def _parsed(body: bytes, upstream: Upstream) -> list[dict[str, Any]] | ServiceError:
    try:
        data = json.loads(body)["data"]
        found = [Model.model_validate(one).model_dump() for one in data[:LISTED]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ServiceError(502, "upstream_not_json", f"upstream {upstream.name!r} gave no list of models")
    return [one for one in found if _serves(upstream, one["id"])]


def _serves(upstream: Upstream, model: str) -> bool:
    names = upstream.models
    return not names or model in names or upstream.matches(model)


def _name(upstreams: Upstreams, upstream: Upstream, model: str) -> str:
    """The name that reaches this model here."""
    return model if upstreams.find(model) == (upstream, model) else f"{upstream.name}/{model}"
