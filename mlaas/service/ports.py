"""The ports of the service, checked before anything starts."""

from __future__ import annotations

import errno
import socket
import time
from contextlib import closing

from mlaas.errors import UserError

BACKLOG = 2048
AGAIN = 0.2  # s


def listen(host: str, port: int, setting: str, *, patience: float = 0.0) -> socket.socket:
    """A listening socket; port 0 takes a free one. `patience`: seconds that a former service gets to leave the port.

    Raises UserError naming the setting.
    """
    until = time.monotonic() + patience
    while True:
        try:
            return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < until:
                time.sleep(AGAIN)
                continue
            raise UserError(_sentence(error, host, port, setting)) from None
        except OverflowError:
            raise UserError(f"MLAAS_{setting.upper()}: {port} is no port; 0 to 65535 are") from None


def _sentence(error: OSError, host: str, port: int, setting: str) -> str:
    flag = f"--{setting.replace('_', '-')}"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken by another program; choose another with {flag} (MLAAS_{setting.upper()}), or 0 for any that is free"
    if error.errno == errno.EACCES:
        return f"port {port} is not allowed for this user; choose one above 1023 with {flag} (MLAAS_{setting.upper()})"
    return f"{host}:{port} cannot be listened on ({error.strerror}); see --host (MLAAS_HOST) and {flag}"


def free(host: str, port: int, setting: str, *, patience: float = 0.0) -> int:
    """The number of a port that nobody uses: the given one, or any for 0. Raises UserError naming the setting."""
    with closing(listen(host, port, setting, patience=patience)) as found:
        return int(found.getsockname()[1])
