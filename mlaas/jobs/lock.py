"""The locks of workers: one worker per data folder and name; and turns that workers of one machine take."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from mlaas.errors import UserError
from mlaas.places import Places


@contextmanager
def alone(places: Places, name: str = "") -> Iterator[None]:
    """Hold the lock of the worker of this name; the system gives it back however the process ends. Raises UserError when another worker holds it."""
    descriptor = _opened(places, f"worker-{name}.lock" if name else "worker.lock")
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            called, cure = (f" called {name}", "another MLAAS_WORKER_NAME") if name else ("", "a folder of its own, or a name (MLAAS_WORKER_NAME)")
            raise UserError(f"another worker{called} runs on the data folder {places.data}; stop it first, or give this one {cure}") from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def turn(places: Places, tenant: str) -> Iterator[None]:
    """Wait until no other worker of this machine starts or clears up tasks of a tenant."""
    descriptor = _opened(places, f"tasks-{tenant}.lock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _opened(places: Places, name: str) -> int:
    places.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(places.run / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
