"""What a connection may keep a process busy with before anybody knows who is there."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
import uvicorn
from uvicorn.server import ServerState

from mlaas.web import protocol

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def app(scope, receive, send):
    """Answers with the number of bytes of the body and of the headers."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    body = f"{size} {len(scope['headers'])}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def talk(*pieces: bytes | float) -> bytes:
    """What a server answers until it closes the connection, or the client has sent all and half a second has passed; numbers are pauses."""

    async def client() -> bytes:
        config = uvicorn.Config(app, http=protocol.Protocol, lifespan="off", ws="none", log_config=None)
        config.load()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: protocol.Protocol(config, ServerState(), {}), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            with suppress(ConnectionError):
                for piece in pieces:
                    if isinstance(piece, float):
                        await asyncio.sleep(piece)
                    else:
                        writer.write(piece)
                        await writer.drain()
            found = b""
            with suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(0.5):
                    while piece := await reader.read(2**16):
                        found += piece
                    return found + b"<closed>"
            return found + (b"<closed>" if reader.at_eof() or reader.exception() else b"")
        finally:
            writer.close()
            server.close()

    return asyncio.run(client())


def test_requests_one_after_the_other_on_one_connection(monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    chunks = b"".join(b"%x\r\n%s\r\n" % (10**5, bytes(10**5)) for _ in range(5))
    found = talk(GET + b"\r\n", 0.4, POST[:20], POST[20:], chunks, b"0\r\n\r\n", 0.4, GET + b"A: b\r\n\r\n")
    assert found.count(b"200 OK") == 3
    assert [part.partition(b"HTTP")[0] for part in found.split(b"\r\n\r\n")[1:]] == [b"0 1", b"500000 2", b"0 2"]


@pytest.mark.parametrize(
    "endless",
    [
        [GET, *[b"A: %s\r\n" % bytes(range(97, 123)) * 100] * 200],
        [b"GET /", *[b"a" * 10_000] * 100],
        [GET + b"A: ", *[b"a" * 10_000] * 100],
        [POST, b"1\r\na\r\n0\r\n", *[b"A: b\r\n" * 1000] * 100],
        [POST, b"1;", *[b"a" * 10_000] * 100],
    ],
    ids=["headers", "address", "header", "trailers", "chunk"],
)
def test_what_never_ends_is_cut_off(endless):
    assert talk(*endless).endswith(b"<closed>")


@pytest.mark.parametrize("pieces", [[], [b"GE"], [GET], [GET + b"\r\n", 0.1, GET]], ids=["nothing", "a bit", "half a head", "half of a second one"])
def test_who_does_not_go_on_is_cut_off(monkeypatch, pieces):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    assert talk(*pieces).endswith(b"<closed>")


def test_a_slow_body_is_not_a_slow_head(monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    assert b"2 2" in talk(POST, b"1\r\na\r\n", 0.3, b"1\r\na\r\n0\r\n\r\n")
