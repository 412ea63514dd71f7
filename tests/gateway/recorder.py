"""A server behind the gateway that tells what reached it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit


@dataclass
class Request:
    """What reached the server; headers as they were written, length of the body in bytes."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    length: int

    def all(self, name: str) -> list[str]:
        """The values of a header, also where its name is written with underscores or in another case."""
        return [value for found, value in self.headers if found.lower().replace("_", "-") == name.lower()]


@dataclass
class Recorder:
    """The server, and the requests that it has answered."""

    url: str
    requests: list[Request] = field(default_factory=list)
    bytes: int = 0

    def last(self) -> Request:
        return self.requests[-1]


class _Handler(BaseHTTPRequestHandler):
    """Answers what it got; ?wait=S: after S seconds; ?stream=S: a line, S seconds, another line; ?status=N: with that status."""

    protocol_version = "HTTP/1.1"
    recorder: ClassVar[Recorder]

    def answer(self) -> None:
        length = self._read()
        request = Request(self.command, self.path, list(self.headers.items()), length)
        self.recorder.requests.append(request)
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        time.sleep(float(query.get("wait", 0)))
        if "stream" in query:
            self._stream(float(query["stream"]))
            return
        body = json.dumps({"target": self.path, "length": length}).encode()
        self.send_response(int(query.get("status", 200)))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = answer  # noqa: N815  # http.server's names

    def _read(self) -> int:
        total = 0
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                total += self._take(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return total
        return self._take(int(self.headers.get("Content-Length", 0)))

    def _take(self, size: int) -> int:
        left = size
        while left and (part := self.rfile.read(min(left, 1 << 16))):
            left -= len(part)
            self.recorder.bytes += len(part)
        return size - left

    def _stream(self, seconds: float) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, text in enumerate((b"data: first\n\n", b"data: second\n\n", b"")):
            time.sleep(seconds if number == 1 else 0)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
            self.wfile.flush()

    def log_message(self, *_arguments: Any) -> None:
        """Nothing: the tests ask the recorder."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.connections: list[socket.socket] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def leave(self) -> None:
        """Cut off whoever is still there, as the end of a process does."""
        self.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_arguments: Any) -> None:
        """Nothing: a client that goes away is no fault here."""


@contextmanager
def recording(port: int = 0) -> Iterator[Recorder]:
    """A recording server on a port (0: a free one)."""
    handler = type("Handler", (_Handler,), {})
    server = _Server(("127.0.0.1", port), handler)
    handler.recorder = Recorder(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield handler.recorder
    finally:
        server.shutdown()
        thread.join()
        server.leave()
