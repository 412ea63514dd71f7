"""The web pages: rendered here, from the same functions as API v1; they work without JavaScript, and are livelier with it."""

from __future__ import annotations

from contextlib import suppress

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from mlaas.errors import MLaaSError
from mlaas.server.pages import admin, job, jobs, models, predictions, session, static, submit, trying, usage, workspaces
from mlaas.server.pages.routing import refusal
from mlaas.web import errors, identify

ROUTERS = (static, session, jobs, job, submit, predictions, models, trying, workspaces, usage, admin)
UPLOAD = "/workspaces/upload"
"""Where a form posts a folder; it counts its bytes itself."""


def install(app: FastAPI) -> None:
    """Add the pages to the server, and show browsers that ask for what is not there a page instead of a document."""
    for part in ROUTERS:
        for route in part.routes.routes:
            if isinstance(route, APIRoute) and route.methods and "GET" in route.methods:
                route.methods.add("HEAD")
            app.router.routes.append(route)
    app.add_exception_handler(HTTPException, _unknown)


async def _unknown(request: Request, error: Exception) -> Response:
    problem = errors.problem_of(error)
    if "text/html" not in request.headers.get("accept", "") or request.url.path.startswith("/api/"):
        return errors.response(problem)
    if request.method in identify.SAFE:
        with suppress(MLaaSError):  # who is not signed in sees the page without its menu
            request.state.visitor = await identify.identity(request)
    return refusal(request, problem)
