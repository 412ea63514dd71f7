"""One worker per data folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from mlaas.errors import UserError
from mlaas.places import Places


@contextmanager
def alone(places: Places) -> Iterator[None]:
    """Hold the worker's lock; the system gives it back however the process ends. Raises UserError when another worker holds it."""
    places.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(places.run / "worker.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another worker runs on the data folder {places.data}; stop it first, or give this one a folder of its own") from None
        yield
    finally:
        os.close(descriptor)
