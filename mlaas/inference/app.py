"""The application of one worker process: predictions on bare ASGI, everything else through Starlette."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import re
import secrets
import time
from pathlib import Path

from starlette.applications import Starlette
from starlette.types import ASGIApp

from mlaas.errors import MLaaSError
from mlaas.inference.batching import Load
from mlaas.inference.context import Context
from mlaas.inference.endpoints import Endpoint, Endpoints
from mlaas.inference.figures import FLUSH, Figures
from mlaas.inference.http import Bodies, Gone, Receive, Request, Scope, Send, reply
from mlaas.inference.predictions import Predictions
from mlaas.inference.routes import routes
from mlaas.inference.served import Pool
from mlaas.inference.tokens import Tokens
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.web import errors, health, identify, logs
from mlaas.web.middleware import Requests

BODIES = 4  # bodies of the largest size that a process holds at a time
UPLOADS = frozenset({"/upload", "/bundle"})  # they are streamed to disk and count for themselves
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def create(settings: Settings) -> ASGIApp:
    """The application with the models of the repository."""
    from mlaas.inference.pool import open_pool

    places = Places.of(settings)
    logging.getLogger("uvicorn.access").propagate = False  # else uvicorn prepares a line per request that nobody writes
    return App(settings, places, open_pool(settings, places))


class App:
    """The ASGI application."""

    def __init__(self, settings: Settings, places: Places, pool: Pool) -> None:
        self._settings = settings
        self._figures = Figures()
        self._load = Load(
            settings.inference_queue, settings.inference_queue_age, settings.inference_batch, settings.inference_batching, self._figures.batch
        )
        rest = Starlette()
        tokens = Tokens(identify.install(rest, settings, places))
        errors.install(rest)
        self._predictions = Predictions(pool, self._load)
        self._tokens = tokens
        self._pool = pool
        limit = settings.inference_body_limit
        self._endpoints = Endpoints(self._predictions, tokens, Bodies(limit, BODIES * limit))
        rest.router.routes += health.routes({"the model repository": lambda: readable(places.repository)}, settings)
        rest.router.routes += routes(Context(settings, places, pool, tokens))
        self._rest = Requests(rest, limit=lambda scope: None if scope["path"] in UPLOADS else limit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            endpoint = self._endpoints.find(scope["path"])
            if endpoint is not None:
                await self._answer(endpoint, scope, receive, send)
            else:
                await self._rest(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    async def _answer(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        begin = time.perf_counter()
        request = Request(scope, receive)
        given = request.headers.get(b"x-request-id")
        request_id = given if given is not None and _ID.fullmatch(given) else b""
        try:
            answer = await endpoint.call(request)
        except Gone:
            return
        except Exception as error:
            request_id = request_id or secrets.token_hex(8).encode()
            logs.begin(request_id=request_id.decode(), route=endpoint.route)
            answer = endpoint.error(errors.problem_of(error))
        await reply(request, send, answer, request_id)
        self._figures.answered(endpoint.route, scope["method"], answer.status, time.perf_counter() - begin)

    # ---- the life of the process

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with contextlib.AsyncExitStack() as stack:
            try:
                await self._start(stack)
            except MLaaSError as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        await self._pool.start()
        stack.push_async_callback(self._pool.stop)
        stack.callback(asyncio.create_task(self._tell()).cancel)
        await self._predictions.warm_up()  # now, for it would hold up requests
        gc.collect()
        gc.freeze()  # what is there now stays: no later collection need look at it
        if self._settings.grpc_port:
            from mlaas.inference.rpc import start

            stop = await start(self._settings, self._predictions, self._tokens, self._figures)
            stack.push_async_callback(stop)

    async def _tell(self) -> None:
        try:
            while True:
                await asyncio.sleep(FLUSH)
                self._figures.tell(self._load.waiting)
        finally:
            self._figures.tell(0)


def readable(repository: Path) -> None:
    """Raise MLaaSError unless the folder of the models can be read; that it is not there yet is no fault."""
    if repository.exists() and not os.access(repository, os.R_OK | os.X_OK):
        raise MLaaSError(f"the folder {repository} cannot be read")
