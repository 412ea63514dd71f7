"""A small application and a process that serves it, for the tests of serving."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial

from fastapi import FastAPI
from sse_starlette import EventSourceResponse
from starlette.requests import Request

from mlaas.errors import UserError
from mlaas.settings import Settings, settings
from mlaas.web import errors, health, identify, middleware, stopping
from mlaas.web.serving import serve


def make(found: Settings) -> FastAPI:
    """The application; SERVED_FAILS makes it fail at the start."""
    if trouble := os.environ.get("SERVED_FAILS"):
        raise UserError(trouble) if trouble != "fault" else RuntimeError("a fault")
    app = FastAPI(openapi_url=None)
    identify.install(app, found)
    errors.install(app)
    app.add_middleware(middleware.Requests)
    app.router.routes.extend(health.routes({}, found))

    @app.get("/pid")
    async def pid() -> int:
        return os.getpid()

    @app.get("/slow/{seconds}")
    async def slow(seconds: float) -> int:
        await asyncio.sleep(seconds)
        return os.getpid()

    @app.get("/kill/{number}")
    async def kill(number: int) -> None:
        os.kill(os.getpid(), number)

    @app.get("/client")
    async def client(request: Request) -> list[str]:
        return [request.client.host if request.client else "", request.url.scheme]

    @app.get("/stream")
    async def stream() -> EventSourceResponse:
        async def events() -> AsyncIterator[dict[str, str]]:
            yield {"event": "state", "data": "begun"}
            while await stopping.pause(30):
                yield {"event": "state", "data": "going on"}
            yield {"event": "end", "data": "stopping"}

        return EventSourceResponse(events(), shutdown_grace_period=3)

    return app


def main() -> int:
    """Serve; the first argument is the number of processes, the second a descriptor to listen on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fd = int(sys.argv[2]) if len(sys.argv) > 2 else None
    try:
        tell = partial(print, flush=True)
        return serve("tests.service.served:make", "127.0.0.1", 0, settings(), part="test", workers=int(sys.argv[1]), fd=fd, listening=tell)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
