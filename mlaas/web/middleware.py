"""Around every request, in plain ASGI: its id, log line and figures, the limit of its body, headers that make browsers careful, and error 500."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlaas.sizes import write_size
from mlaas.web import logs, metrics
from mlaas.web.errors import problem_of, response
from mlaas.web.problem import Problem

logger = logging.getLogger("mlaas.access")
REQUEST_ID = b"x-request-id"
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
BODY_LIMIT = 10_000_000  # bytes
QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CAREFUL = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
}
"""Headers of every answer that does not set them itself."""

Limit = Callable[[Scope], int | None]


class Requests:
    """The outermost middleware of a part.

    limit: the most bytes that a request's body may have, or a function of its scope that tells (None: no limit, the route counts itself).
    """

    def __init__(self, app: ASGIApp, limit: int | Limit = BODY_LIMIT) -> None:
        self._app = app
        self._limit: Limit = limit if callable(limit) else lambda _scope: limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._limit(scope))
        with metrics.RUNNING.track_inprogress():
            try:
                await exchange.run(self._app)
            finally:
                exchange.record()


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: int | None) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self._limit = limit
        self._began = time.perf_counter()
        self._status = 0
        self._read = self._written = 0
        self._too_large = False
        self._id = _request_id(scope)
        self._context = logs.begin(request_id=self._id.decode())

    async def run(self, app: ASGIApp) -> None:
        """Answer the request."""
        try:
            if self._limit is not None and _length(self.scope) > self._limit:
                raise self._over()
            await app(self.scope, self.receive, self.send)
            if self._too_large and not self._status:
                raise self._over()
        except Exception as error:
            if self._status:
                raise  # the answer has begun: all that is left is to cut the connection
            problem = self._over() if self._too_large else problem_of(error)
            self._too_large = False
            await response(problem)(self.scope, self.receive, self.send)

    def _over(self) -> Problem:
        return Problem(413, f"The body is larger than {write_size(self._limit or 0)}.")

    async def receive(self) -> Message:
        """The next part of the body; beyond the limit as if the client had gone, and then whatever the application answers becomes a 413."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            if self._limit is not None and self._read > self._limit:
                self._too_large = True
                return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        """Pass on a part of the answer."""
        if self._too_large and not self._status:
            return
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message = {**message, "headers": self._headers(message.get("headers", ()))}
        elif message["type"] == "http.response.body":
            self._written += len(message.get("body", b""))
        await self._send(message)

    def _headers(self, given: Any) -> list[tuple[bytes, bytes]]:
        headers = list(given)
        names = {name.lower() for name, _ in headers}
        headers += [(name, value) for name, value in CAREFUL.items() if name not in names]
        return [*headers, (REQUEST_ID, self._id)]

    def record(self) -> None:
        """Count the request and write its line. The query is left out: it may hold anything."""
        seconds = time.perf_counter() - self._began
        status = self._status or 499  # the client went away first
        method = self.scope["method"] if self.scope["method"] in METHODS else "other"
        route = _route(self.scope)
        metrics.REQUESTS.labels(route, method, str(status)).inc()
        metrics.LATENCY.labels(route, method).observe(seconds)
        level = logging.DEBUG if self.scope["path"] in QUIET or self.scope["path"].startswith("/static/") else logging.INFO
        if logger.isEnabledFor(level):
            client = self.scope.get("client")
            figures = {"status": status, "seconds": round(seconds, 4), "read": self._read, "written": self._written}
            fields = self._context | figures | {"client": client[0] if client else ""}
            logger.log(level, "%s %s", method, self.scope["path"], extra={"fields": fields})


def _request_id(scope: MutableMapping[str, Any]) -> bytes:
    """The id that the gateway gave the request, where it is one; else a new one."""
    given = next((value for name, value in scope["headers"] if name == REQUEST_ID), b"")
    return given if _ID.fullmatch(given) else secrets.token_hex(8).encode()


def _length(scope: MutableMapping[str, Any]) -> int:
    """The announced length of the body; 0 when it is not announced."""
    given = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(given) if given.isdigit() and len(given) < 20 else 0


def _route(scope: MutableMapping[str, Any]) -> str:
    """The template of the route that answered (/api/v1/jobs/{id}), so that names of users make no time series."""
    found = scope.get("route")
    return str(getattr(found, "path_format", getattr(found, "path", ""))) or "unmatched"
