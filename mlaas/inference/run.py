"""The inference service as a process of its own: HTTP and gRPC, several workers."""

from __future__ import annotations

import socket
from collections.abc import Callable

from mlaas.errors import UserError
from mlaas.settings import Settings
from mlaas.web.serving import serve

FACTORY = "mlaas.inference.app:create"


def main(settings: Settings, *, fd: int | None = None, listening: Callable[[str], None] | None = None, factory: str = FACTORY) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status.

    fd: a socket that listens already, in place of inference_port. listening: told the address of HTTP (port 0 takes a free one).
    Raises UserError when a port is taken.
    """
    _free(settings)
    port, workers = settings.inference_port, settings.inference_workers
    return serve(factory, settings.host, port, settings, part="inference", workers=workers, fd=fd, listening=listening)


def _free(settings: Settings) -> None:
    """Raise UserError when the port of gRPC is taken: the workers share theirs, and would share it with a stranger, too."""
    if not settings.grpc_port:
        return
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        socket.create_server((settings.host, settings.grpc_port), family=family).close()
    except OSError as error:
        where = f"{settings.host}:{settings.grpc_port}"
        raise UserError(f"MLAAS_GRPC_PORT: {where} cannot be listened on: {error.strerror}; choose another port, or 0 for none") from None
