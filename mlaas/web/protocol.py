"""HTTP as uvicorn speaks it, with bounds on what somebody who is not known yet can make a process keep: the head of a request, and waiting for it."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LARGEST_HEAD = 2**17
"""Bytes between one piece of a body and the next, or before the first: request line, headers, trailers, whatever a chunk is adorned with."""
HEAD_SECONDS = 30.0
"""From the connection, or from the first byte of a further request, to the end of its headers."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    _adorned = 0
    _in_head = True
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody has connected, and is to send a request soon."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and count what is neither a whole head nor a body."""
        self._adorned += len(data)
        super().data_received(data)
        if self._adorned > LARGEST_HEAD and not self.transport.is_closing():
            self.transport.abort()
        elif self._in_head and self._patience is None:
            self._wait()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its headers are there."""
        self._in_head, self._adorned = False, 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of its body is there."""
        self._adorned = 0
        super().on_body(body)

    def _wait(self) -> None:
        self._patience = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
