"""A relay in front of a Docker engine, which can lose what the engine answers: what a worker sees when an engine goes away half way."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Relay:
    """Listens at `url`. Once a request has `lost` in its first line, its answer is dropped, and so are all connections until it is `back`."""

    def __init__(self, folder: Path, engine: str) -> None:
        self.url = f"unix://{folder / 'relay.sock'}"
        self.lost: bytes | None = None
        self.away = False
        self._engine = engine.removeprefix("unix://")
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.url.removeprefix("unix://"))
        self._listening.listen()
        self._threads: list[threading.Thread] = []
        self._begin(self._accept)

    def back(self) -> None:
        """Pass everything on again."""
        self.lost, self.away = None, False

    def close(self) -> None:
        """Listen no more."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(30)

    def _begin(self, work, *arguments) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._listening.accept()[0]
                if self.away:
                    near.close()
                    continue
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._engine)
                self._begin(self._pass, near, far, True)
                self._begin(self._pass, far, near, False)

    def _pass(self, source: socket.socket, target: socket.socket, asking: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if asking and self.lost is not None and self.lost in data.split(b"\r\n", 1)[0]:
                    self.away = True
                elif self.away and not asking:
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def relay(folder: Path, engine: str) -> Iterator[Relay]:
    """A relay until the block ends."""
    made = Relay(folder, engine)
    try:
        yield made
    finally:
        made.close()
