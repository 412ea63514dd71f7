"""Requests and answers of the predictions, on bare ASGI: a framework's request objects would take as long as the predictions."""

from __future__ import annotations

import asyncio
import gzip
import re
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from mlaas.web.problem import Problem

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = b"application/json"
BINARY = b"application/octet-stream"
COMPRESSED_FROM = 1024  # bytes; below it compression makes answers larger and slower
STALLED = 20.0  # s without a byte, and
SLOWEST = 120.0  # s for a whole body: as long as it comes, it takes of the room for the bodies of all
THREAD_FROM = 256 * 1024  # bytes; to pack or unpack more would hold up other requests


class Request:
    """A request: its scope, and its headers by their names in lower case (of one that is there twice the last)."""

    __slots__ = ("headers", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.headers: dict[bytes, bytes] = dict(scope["headers"])

    def header(self, name: bytes) -> bytes:
        """A header; empty where it is not there."""
        return self.headers.get(name, b"")


@dataclass(slots=True)
class Bodies:
    """The bodies that this process holds at a time: no more than a few of the largest.

    limit: bytes of one body, also unpacked. total: bytes of all that are being received.
    """

    limit: int
    total: int
    held: int = 0


@dataclass(slots=True)
class Answer:
    """An answer, ready to be sent."""

    body: bytes
    media_type: bytes = JSON
    status: int = 200
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


class Gone(Exception):  # noqa: N818 - nobody is told
    """The client went away before its request was whole."""


async def read(request: Request, bodies: Bodies) -> bytes:
    """The body of a request, unpacked. Raises Problem (413 too large, 408 too slow, 415 packed in an unknown way, 400 damaged, 503), and Gone."""
    message = await request.receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body") or message["type"] != "http.request":
        body = await _rest(request, bodies, message)
    elif len(body) > bodies.limit:
        raise _too_large(bodies.limit)
    packed = request.headers.get(b"content-encoding")
    if not packed:
        return body
    arguments = body, packed.strip().lower(), bodies.limit
    return unpack(*arguments) if len(body) < THREAD_FROM // 64 else await asyncio.to_thread(unpack, *arguments)


async def _rest(request: Request, bodies: Bodies, message: MutableMapping[str, Any]) -> bytes:
    """Bodies that come in several pieces."""
    declared = request.header(b"content-length")
    if declared.isdigit() and int(declared) > bodies.limit:
        raise _too_large(bodies.limit)
    parts: list[bytes] = []
    size = 0
    until = asyncio.get_running_loop().time() + SLOWEST
    try:
        while True:
            if message["type"] != "http.request":
                raise Gone
            part = message.get("body", b"")
            size += len(part)
            bodies.held += len(part)
            if size > bodies.limit:
                raise _too_large(bodies.limit)
            if bodies.held > bodies.total:
                raise Problem(503, "the inference service is receiving too much at a time; try again in a second", headers={"Retry-After": "1"})
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)
            message = await _next(request, until)
    finally:
        bodies.held -= size


async def _next(request: Request, until: float) -> MutableMapping[str, Any]:
    """The next piece of a body. Raises Problem 408."""
    try:
        async with asyncio.timeout_at(min(until, asyncio.get_running_loop().time() + STALLED)):
            return await request.receive()
    except TimeoutError:
        raise Problem(408, "the body comes too slowly; send it again", headers={"Connection": "close"}) from None


def unpack(body: bytes, packed: bytes, limit: int) -> bytes:
    """A body as it was before Content-Encoding. Raises Problem."""
    if packed in (b"identity", b""):
        return body
    if packed not in (b"gzip", b"x-gzip", b"deflate"):
        raise Problem(415, "the Content-Encoding of the body must be gzip or deflate", headers={"Accept-Encoding": "gzip, deflate"})
    try:
        return _inflated(body, 31 if packed != b"deflate" else 15, limit)
    except zlib.error:
        if packed != b"deflate":
            raise Problem(400, "the body is not packed with gzip, as its Content-Encoding says") from None
    try:
        return _inflated(body, -15, limit)  # what many send as deflate, without the header of zlib
    except zlib.error:
        raise Problem(400, "the body is not packed with deflate, as its Content-Encoding says") from None


def _inflated(body: bytes, window: int, limit: int) -> bytes:
    unpacker = zlib.decompressobj(window)
    found = unpacker.decompress(body, limit + 1)
    if len(found) > limit or unpacker.unconsumed_tail:
        raise _too_large(limit)
    if not unpacker.eof:
        raise zlib.error("incomplete")
    return found


def _too_large(limit: int) -> Problem:
    return Problem(413, f"the body is larger than {limit} bytes, which is the most that is taken", headers={"Connection": "close"})


async def reply(request: Request, send: Send, answer: Answer, request_id: bytes = b"") -> None:
    """Send an answer, packed where it is long and the client takes that; with the request's id where it has one."""
    headers = [(b"content-type", answer.media_type), *answer.headers]
    body = answer.body
    if len(body) >= COMPRESSED_FROM and (way := _way(request.header(b"accept-encoding"))):
        body = _packed(body, way) if len(body) < THREAD_FROM else await asyncio.to_thread(_packed, body, way)
        headers += [(b"content-encoding", way), (b"vary", b"accept-encoding")]
    headers.append((b"content-length", b"%d" % len(body)))
    if request_id:
        headers.append((b"x-request-id", request_id))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body if request.scope["method"] != "HEAD" else b""})


def _packed(body: bytes, way: bytes) -> bytes:
    return gzip.compress(body, 1, mtime=0) if way == b"gzip" else zlib.compress(body, 1)


def _way(accepted: bytes) -> bytes:
    """gzip or deflate, whichever the client names first and does not rule out; else nothing."""
    for item in accepted.lower().split(b","):
        name, _, parameters = item.partition(b";")
        if name.strip() in (b"gzip", b"deflate") and not re.search(rb"q\s*=\s*0(\.0*)?\s*$", parameters):
            return name.strip()
    return b""


def to_json(document: Any) -> bytes:
    """JSON, arrays included; NaN is null."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def from_json(body: bytes) -> Any:
    """The document of a body. Raises Problem 400."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(400, f"the body is not JSON: {error}") from None


def told(problem: Problem, document: Mapping[str, Any], media_type: bytes = JSON) -> Answer:
    """The answer of an error in the form of a protocol."""
    headers = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in problem.headers.items()]
    return Answer(to_json(document), media_type, problem.status, headers)
