"""The web pages: rendered here, from the same functions as API v1; they work without JavaScript, and are livelier with it."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from mlaas.server.pages import admin, job, jobs, models, predictions, session, static, submit, trying, usage, workspaces
from mlaas.server.pages.routing import refusal
from mlaas.web import errors

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
    wants_page = "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/")
    return refusal(request, problem) if wants_page else errors.response(problem)
