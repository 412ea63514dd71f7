"""Files as answers: opened safely first, then sent with ranges, validators, and headers that keep a hostile file from acting as a page of ours."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from mlaas.web import logs
from mlaas.web.problem import Problem

CHUNK = 2**16
SAFE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"}
"""On everything that a user or a job wrote: a report may show its pictures, and can run nothing."""


class OpenFile(FileResponse):
    """The answer that sends an open file, whatever becomes of its name meanwhile, and closes it. At most the size that it has now."""

    def __init__(
        self, descriptor: int, name: str, *, media_type: str | None = None, attachment: bool = True, headers: dict[str, str] | None = None
    ) -> None:
        self.descriptor = descriptor
        found = os.fstat(descriptor)
        super().__init__(
            # Opening this again gives the very file that was opened beneath its folder, with a position of its own.
            f"/proc/self/fd/{descriptor}",
            media_type=media_type,
            filename=name,
            stat_result=found,
            content_disposition_type="attachment" if attachment else "inline",
            headers=SAFE | {"Cache-Control": "private, no-cache"} | (headers or {}),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._unchanged(scope):
                await Response(status_code=304, headers={"ETag": self.headers["etag"]})(scope, receive, send)
            else:
                await super().__call__(scope, receive, _as_problems(send))
        finally:
            os.close(self.descriptor)

    def _unchanged(self, scope: Scope) -> bool:
        given = dict(scope["headers"]).get(b"if-none-match", b"").decode("latin-1")
        return self.headers["etag"] in {tag.strip().removeprefix("W/") for tag in given.split(",")}


def _as_problems(send: Send) -> Send:
    """Turn the plain answers to a range that cannot be had into problems."""
    refused = 0

    async def wrapped(message: Message) -> None:
        nonlocal refused
        if message["type"] == "http.response.start" and message["status"] in {400, 416}:
            refused = message["status"]
            headers = [(name, value) for name, value in message["headers"] if name == b"content-range"]
            await send({**message, "headers": [*headers, (b"content-type", b"application/problem+json")]})
        elif refused:
            problem = Problem(refused, "the range cannot be had; write e.g. bytes=0-999", field="Range")
            await send({**message, "body": json.dumps(problem.document(logs.bound("request_id"))).encode()})
        else:
            await send(message)

    return wrapped


class Growing(StreamingResponse):
    """The answer that sends the bytes from `start` that an open file has now, although it may grow while they are sent; closes it."""

    def __init__(self, descriptor: int, start: int, headers: dict[str, str] | None = None) -> None:
        self.descriptor = descriptor
        length = max(os.fstat(descriptor).st_size - start, 0)
        super().__init__(
            _pieces(descriptor, start, length),
            media_type="text/plain; charset=utf-8",
            headers=SAFE | {"Content-Length": str(length), "Cache-Control": "no-store"} | (headers or {}),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self.descriptor)


def _pieces(descriptor: int, start: int, length: int) -> Iterator[bytes]:
    while length > 0 and (data := os.pread(descriptor, min(CHUNK, length), start)):
        start, length = start + len(data), length - len(data)
        yield data


def served(path: str, open_it: Callable[[], int], **options: Any) -> OpenFile:
    """The answer for the file that `open_it` opens; its name is the last part of `path`. Raises Problem 404 when it is not there."""
    try:
        return OpenFile(open_it(), path.rpartition("/")[2], **options)
    except (FileNotFoundError, ValueError):
        raise Problem(404, f"there is no file {path!r}", field="path") from None
    except OSError as error:
        if error.errno in {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EINVAL}:
            raise Problem(404, f"there is no file {path!r}", field="path") from None
        raise
