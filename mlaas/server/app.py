"""The server's application: API v1, the published calls, health; `mlaas.server.pages` adds the pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI, Request, Response
from sqlalchemy import Engine
from starlette.routing import Match
from starlette.types import Scope

from mlaas import __version__
from mlaas.models.catalogue import Catalogue
from mlaas.places import Places
from mlaas.server import inference, jobs, openapi, pages, published
from mlaas.server.deps import Context
from mlaas.server.feeds import Feeds
from mlaas.server.metrics import Jobs
from mlaas.server.routes import ROUTERS
from mlaas.server.routing import add
from mlaas.settings import Settings
from mlaas.store import database
from mlaas.web import errors, health, identify
from mlaas.web.middleware import BODY_LIMIT, Requests
from mlaas.web.problem import Problem
from mlaas.workspaces import Workspaces

UPLOADS = frozenset({("POST", "/upload"), ("POST", "/setup_tfaas"), ("POST", "/api/v1/workspaces"), ("POST", pages.UPLOAD)})
"""Requests that count their bodies themselves; so does PUT of a workspace."""


def create(settings: Settings) -> FastAPI:
    """The application. Brings the database to this version; raises MLaaSError when the settings are wrong or the database is away."""
    places = Places.of(settings)
    places.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = database.connect(settings)
    database.migrate(engine)
    app = FastAPI(title="MLaaS4HEP", version=__version__, openapi_url=None, docs_url=None, redoc_url=None, lifespan=_lifespan)
    identify.install(app, settings, places)
    app.state.context = context(settings, places, engine)
    errors.install(app)
    app.add_exception_handler(405, _other_method)
    add(app, [*ROUTERS, published.routes], head=True)
    pages.install(app)
    app.router.routes.extend(health.routes({"database": partial(database.ready, engine)}, settings, [Jobs(engine)]))
    app.add_api_route("/openapi.json", _openapi, include_in_schema=False)
    app.add_middleware(Requests, limit=partial(body_limit, settings))
    return app


def context(settings: Settings, places: Places, engine: Engine) -> Context:
    """The parts of the service that the routes work with."""
    parts = Context(
        settings=settings,
        places=places,
        engine=engine,
        workspaces=Workspaces(places, engine, settings),
        catalogue=Catalogue(places.repository),
        inference=inference.client(settings),
        feeds=Feeds(lambda job: jobs.look(parts, job)),
    )
    return parts


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    parts: Context = app.state.context
    try:
        yield
    finally:
        await parts.inference.aclose()
        parts.pool.shutdown(wait=False, cancel_futures=True)
        parts.engine.dispose()


async def _other_method(request: Request, _error: Exception) -> Response:
    """Tell all methods of an address; the router knows those of its first route only."""
    matching = [route for route in request.app.router.routes if route.matches(dict(request.scope))[0] is not Match.NONE]
    methods = sorted({method for route in matching for method in route.methods or ()})
    return errors.response(Problem(405, f"this address takes {', '.join(methods)} only", headers={"Allow": ", ".join(methods)}))


def _openapi() -> Response:
    """The document of this API, as it is committed."""
    return Response(openapi.PATH.read_bytes(), media_type="application/json")


def body_limit(settings: Settings, scope: Scope) -> int | None:
    """The most bytes of a request's body; None for uploads, which count themselves and write to the disk as they count."""
    method, path = scope["method"], scope["path"]
    if (method, path) in UPLOADS or (method == "PUT" and path.startswith("/api/v1/workspaces/")):
        return None
    return settings.inference_body_limit if path == "/api/v1/predictions" else BODY_LIMIT
