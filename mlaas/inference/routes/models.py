"""GET /models, GET /params/M, DELETE /delete: the caller's models in the published form."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mlaas.auth.identity import Identity
from mlaas.errors import BundleError
from mlaas.inference.context import Context
from mlaas.inference.routes.published import published
from mlaas.models.bundle import read_bundle
from mlaas.models.catalogue import Catalogue, Listed, NoModel
from mlaas.models.tfaas import PARAMS
from mlaas.web import identify
from mlaas.web.problem import Problem


def routes(context: Context) -> list[BaseRoute]:
    """The published calls about models."""
    catalogue = Catalogue(context.places.repository)

    @published
    async def models(request: Request) -> Response:
        who = await identify.identity(request)
        found = await asyncio.to_thread(listing, catalogue, who)
        return JSONResponse(found or None)

    @published
    async def params(request: Request) -> Response:
        who = await identify.identity(request)
        text = await asyncio.to_thread(params_of, catalogue, who, request.path_params["model"])
        return Response(text, media_type="application/json")

    @published
    async def delete(request: Request) -> Response:
        who = await identify.identity(request)
        identify.permit(who, "modify")
        model = request.path_params.get("model") or await _named(request)
        await asyncio.to_thread(remove, catalogue, who, model)
        return Response(status_code=200)

    return [
        Route("/models", models, methods=["GET"]),
        Route("/params/{model}", params, methods=["GET"]),
        Route("/delete", delete, methods=["DELETE"]),
        Route("/delete/{model}", delete, methods=["DELETE"]),
    ]


def listing(catalogue: Catalogue, who: Identity) -> list[dict[str, Any]]:
    """Every model that the caller may use: own ones by their name, those of others as tenant:name."""
    found = [_entry(catalogue, entry) for entry in catalogue.visible(who.tenant, who.groups)]
    return [entry for entry in found if entry is not None]


def params_of(catalogue: Catalogue, who: Identity, reference: str) -> str:
    """The params.json of a model. Raises Problem 404."""
    try:
        found = catalogue.resolve(reference, who.tenant, who.groups, admin=who.admin)
        return read_bundle(found.path, verify=False).text(PARAMS)
    except NoModel as error:
        raise Problem(404, str(error), field="model") from None


def remove(catalogue: Catalogue, who: Identity, model: str) -> None:
    """Remove a model of the caller, with all its versions. Raises Problem 404: none of this name, or somebody else's."""
    try:
        catalogue.remove(who.tenant, model.removeprefix(f"{who.tenant}:"))
    except NoModel as error:
        raise Problem(404, str(error), field="model") from None


async def _named(request: Request) -> str:
    async with request.form(max_files=1, max_fields=10) as form:
        model = form.get("model")
    if not isinstance(model, str) or not model:
        raise Problem(400, "no model is named: send the form field model, or DELETE /delete/<model>", field="model")
    return model


def _entry(catalogue: Catalogue, entry: Listed) -> dict[str, Any] | None:
    try:
        path = catalogue.repository.model(entry.tenant, entry.model) / str(entry.versions[-1])
        params = json.loads(read_bundle(path, verify=False).text(PARAMS))
    except (BundleError, ValueError):  # removed meanwhile, or damaged
        return None
    if not isinstance(params, dict):
        return None
    options = params.get("options")
    return {
        "name": f"{entry.tenant}:{entry.model}" if entry.shared else entry.model,
        "model": str(params.get("model") or ""),
        "labels": str(params.get("labels") or ""),
        "options": options if isinstance(options, list) else None,
        "inputNode": _node(params, "input"),
        "outputNode": _node(params, "output"),
        "description": str(params.get("description") or ""),
        "timestamp": str(params.get("timestamp") or ""),
    }


def _node(params: dict[str, Any], kind: str) -> str:
    return next((str(params[key]) for key in (f"{kind}Node", f"{kind}_node", f"{kind}_name") if params.get(key)), "")
