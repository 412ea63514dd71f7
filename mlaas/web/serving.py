"""Serving an application by HTTP: uvicorn with one or several processes on one port, TLS, log lines of ours, and an end that cuts nobody off."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.importer import import_from_string

from mlaas.errors import MLaaSError, UserError
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.web import logs, metrics, stopping
from mlaas.web.protocol import Protocol
from mlaas.web.workers import Workers, die_with_parent

logger = logging.getLogger(__name__)
STARTUP_FAILURE = 3
KEEP_ALIVE = 75  # s; longer than the gateways' own, so that it is they who close idle connections
BACKLOG = 2048
JUST_MADE = 0.2  # s within which the first request of a connection comes
Factory = Callable[[Settings], ASGIApp]


def serve(
    factory: str,
    host: str,
    port: int,
    settings: Settings,
    *,
    part: str,
    workers: int = 1,
    fd: int | None = None,
    listening: Callable[[str], None] | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status: 0 when it was asked to stop, 3 when it could not start.

    factory: "module:function" that makes the application from the settings, in each process. port 0 takes a free one; fd: a socket that listens
    already. `listening` is told the address (http://127.0.0.1:8080) before the first request can be answered; it is logged as well.
    On a signal no new connections are taken, running requests get `shutdown_timeout` seconds, streams are told to end (`stopping`).
    """
    logs.configure(settings, part)
    bound = _bind(host, port, fd)
    address = url(bound, bool(settings.tls_certificate))
    try:
        config = _config(_Application(factory, settings, part, os.getpid(), workers > 1), bound, settings, workers)
        if listening is not None:
            listening(address)
        logger.info("listening on %s", address, extra={"fields": {"workers": workers}})
        return _several(config, bound, settings, part) if workers > 1 else _alone(config, bound)
    finally:
        bound.close()


def url(bound: socket.socket, tls: bool) -> str:
    """The address of a listening socket."""
    host, port = bound.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _bind(host: str, port: int, fd: int | None) -> socket.socket:
    """A listening socket. Raises UserError naming the cure."""
    try:
        if fd is not None:
            return socket.socket(fileno=fd)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        where = f"descriptor {fd}" if fd is not None else f"{host}:{port}"
        raise UserError(f"{where} cannot be listened on: {error.strerror or error}; stop what listens there or choose another port") from None


def _config(app: _Application, bound: socket.socket, settings: Settings, workers: int) -> uvicorn.Config:
    _check_tls(settings)
    return uvicorn.Config(
        app,
        factory=True,
        host=bound.getsockname()[0],
        port=bound.getsockname()[1],
        workers=workers,
        loop="uvloop",
        http=Protocol,
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout)),
        timeout_worker_healthcheck=20,
        backlog=BACKLOG,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )


def _check_tls(settings: Settings) -> None:
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        missing = "MLAAS_TLS_KEY" if settings.tls_key is None else "MLAAS_TLS_CERTIFICATE"
        raise UserError(f"{missing}: a certificate and its key belong together; set both or neither")
    for name, path in (("MLAAS_TLS_CERTIFICATE", settings.tls_certificate), ("MLAAS_TLS_KEY", settings.tls_key)):
        if path is not None and not os.access(path, os.R_OK):
            raise UserError(f"{name}: {path} cannot be read")


class _Application:
    """Makes the application, in whatever process it is to run in."""

    def __init__(self, factory: str, settings: Settings, part: str, parent: int, child: bool) -> None:
        self._factory, self._settings, self._part, self._parent, self._child = factory, settings, part, parent, child

    def __call__(self) -> ASGIApp:
        if self._child:
            logs.configure(self._settings, self._part)
            die_with_parent(self._parent)
        try:
            make: Factory = import_from_string(self._factory)
            return make(self._settings)
        except MLaaSError as error:
            logger.error("%s", error)  # noqa: TRY400  # a sentence for the user needs no traceback
        except Exception:
            logger.exception("the service cannot start")
        sys.exit(STARTUP_FAILURE)


class _Server(uvicorn.Server):
    """A server that says when it stops, and whose process then ends with status 0."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        stopping.stop()
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # they have done what they were sent for

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, but answer those that were just made before idle ones are closed."""
        for server in self.servers:
            server.close()
        await asyncio.sleep(JUST_MADE)
        await super().shutdown(sockets)


def _alone(config: uvicorn.Config, bound: socket.socket) -> int:
    server = _Server(config)
    try:
        server.run([bound])
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else STARTUP_FAILURE
    return 0 if server.started else STARTUP_FAILURE


def _several(config: uvicorn.Config, bound: socket.socket, settings: Settings, part: str) -> int:
    metrics.prepare(metrics_folder(settings, part))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    workers = Workers(config, [bound], _Server, settings.shutdown_timeout)
    try:
        workers.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return STARTUP_FAILURE if workers.failed else 0


def metrics_folder(settings: Settings, part: str) -> Path:
    """Where the processes of a part keep their figures."""
    return Places.of(settings).run / f"metrics-{part}"
