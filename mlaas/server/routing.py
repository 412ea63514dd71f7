"""How requests are read and answered, for all routes alike: JSON bodies with a limit, HEAD beside GET, and the errors that a route documents."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from copy import copy
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from mlaas.web import identify
from mlaas.web.problem import Problem

JSON = {"application/json", "application/problem+json"}
TEXTS = {
    400: "The request cannot be read.",
    401: "No token, or one that is not accepted.",
    403: "The token does not allow this.",
    404: "There is no such thing, or it is not the caller's: the two are not told apart.",
    408: "The upload stalled.",
    409: "It is in a state that does not allow this.",
    412: "It has changed since it was read (If-Match), or is there already (If-None-Match).",
    413: "The body is too large.",
    415: "The body is of another content type than the one that is read here.",
    416: "The file has no such range.",
    422: "A field is wrong; `field` names it.",
    429: "Too many jobs are queued; try again later.",
    503: "A part of the service does not answer, or is busy; try again later.",
    504: "The prediction took too long.",
    507: "The disk, or the caller's share of it, is full.",
}
Reply = Callable[[Request], Coroutine[Any, Any, Response]]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of errors; those that any request can meet are added."""
    documented = sorted({401, 403, 503, *statuses})
    return {status: problem(TEXTS[status]) for status in documented}


BINARY = {"type": "string", "format": "binary"}
FORM = {"type": "object", "required": ["file"], "properties": {"file": {**BINARY, "description": "The file; of a folder a .tar.gz, .tar or .zip."}}}


def content(schemas: dict[str, Any]) -> dict[str, Any]:
    """The documentation of a request body that is not JSON: schemas by media type."""
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema} for kind, schema in schemas.items()}}}


def download(kind: str = "application/octet-stream") -> dict[int | str, dict[str, Any]]:
    """The documentation of a file as an answer."""
    body = {kind: {"schema": BINARY}}
    whole = {"description": "The file.", "content": body, "headers": {"ETag": {"schema": {"type": "string"}}}}
    part = {"description": "A range of the file.", "content": body}
    return {200: whole, 206: part, 304: {"description": "It has not changed (If-None-Match)."}, **problems(400, 404, 416, 422)}


def problem(text: str) -> dict[str, Any]:
    """The documentation of one error."""
    return {"description": text, "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}


DOWNLOAD = download()


class JsonRequest(Request):
    """A request whose body is parsed as strict JSON: no NaN. Its size is limited around all routes (`mlaas.web.middleware`)."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            try:
                self._json = orjson.loads(await self.body())
            except orjson.JSONDecodeError as error:
                raise Problem(400, f"the body is not JSON: {error}") from None
        return self._json


async def known_json_request(request: Request) -> JsonRequest:
    """The request with its body read and parsed. Raises Problem 400 or 415; FastAPI would tell less of what is wrong.

    Nothing of a body is kept before its sender is known. Raises AuthError, as the route would a moment later.
    """
    check_json(request)
    await identify.identity(request)
    found = JsonRequest(request.scope, request.receive)
    await found.json()
    return found


def check_json(request: Request) -> None:
    """Raise Problem 415 when the body does not say that it is JSON."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in JSON:
        raise Problem(415, "send JSON, and say so: Content-Type: application/json", headers={"Accept": "application/json"})


class Route(APIRoute):
    """A route that reads JSON as `JsonRequest` does."""

    def get_route_handler(self) -> Reply:
        handle, takes_json = super().get_route_handler(), self.body_field is not None

        async def reply(request: Request) -> Response:
            return await handle(await known_json_request(request) if takes_json else request)

        return reply


def router(prefix: str, tag: str) -> APIRouter:
    """A router of API v1."""
    return APIRouter(prefix=f"/api/v1{prefix}", tags=[tag], route_class=Route)


def add(app: FastAPI, routers: Iterable[APIRouter], *, head: bool = False) -> None:
    """Add the routes of routers as they are. head: answer HEAD wherever GET is answered; not where the document is made, which lists GET only."""
    for route in (copy(route) for part in routers for route in part.routes):
        if head and isinstance(route, APIRoute) and route.methods and "GET" in route.methods:
            route.methods = route.methods | {"HEAD"}
        app.router.routes.append(route)
