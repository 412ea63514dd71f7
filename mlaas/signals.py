"""Ctrl-C and SIGTERM that arrive: Python raises KeyboardInterrupt once, wherever the program happens to be, and there it may get lost."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mlaas.errors import Cancelled

AGAIN = 1.0  # s


class _Stop:
    """The handler of both signals."""

    def __init__(self) -> None:
        self._asked = 0
        self._echo = self._over = False
        self._timer: threading.Timer | None = None
        self._repeating = threading.Lock()

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self._over:
            return
        if not self._echo:
            self._asked += 1
        self._echo = False
        self._timer = threading.Timer(AGAIN, self._repeat, [number])
        self._timer.daemon = True
        self._timer.start()
        if self._asked > 2 or not _cleaning_up():
            raise KeyboardInterrupt

    def _repeat(self, number: int) -> None:
        ident = threading.main_thread().ident
        with self._repeating:
            if not self._over and ident is not None:
                self._echo = True
                signal.pthread_kill(ident, number)

    def end(self) -> None:
        """Say nothing more."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        with self._repeating:  # a signal that is just being sent again must find this handler, not the one before, which would end the process
            pass


def _cleaning_up() -> bool:
    """Whether the main thread deals with the interrupt already (in a `finally`, an `except` or a `with` that it passes through)."""
    error, seen = sys.exc_info()[1], 0
    while error is not None and seen < 50:
        if isinstance(error, KeyboardInterrupt | Cancelled):
            return True
        error, seen = error.__context__, seen + 1
    return False


@contextmanager
def stopping() -> Iterator[None]:
    """Within it SIGINT and SIGTERM raise KeyboardInterrupt in the main thread, again every second until it has got through.

    It does not get through where Python cannot raise (`__del__`, callbacks of C libraries) or where a library catches everything. While the program
    cleans up because of it, a second signal does not disturb; a third does.
    """
    stop = _Stop()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        stop.end()
        for number, handler in before.items():
            signal.signal(number, handler)
