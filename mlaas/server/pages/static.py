"""Style sheet, scripts and icon."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from mlaas.server.pages import files
from mlaas.web.problem import Problem

routes = APIRouter(include_in_schema=False)
FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}


@routes.get("/static/{name}")
def static(name: str) -> Response:
    """One file; whoever has its address may have it."""
    try:
        body, kind = files.content(name)
    except KeyError:
        raise Problem(404, f"there is no file {name!r}") from None
    return Response(body, media_type=kind, headers=FOREVER)


@routes.get("/favicon.ico")
def icon() -> Response:
    """What browsers ask for on their own."""
    return static("icon.svg")
