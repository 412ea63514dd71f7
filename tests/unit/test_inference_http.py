"""Bodies of requests, packed or in pieces, within their limits; answers that are packed for who takes that."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from itertools import chain, repeat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas.inference import http
from mlaas.inference.http import Answer, Bodies, Gone, Request, read, reply, unpack
from mlaas.web.problem import Problem


def request(*parts: bytes, end: bool = True, **headers: str) -> Request:
    """A request whose body comes in parts; without `end` the client goes away."""
    messages = [{"type": "http.request", "body": part, "more_body": index < len(parts) - 1 or not end} for index, part in enumerate(parts)]
    messages += [] if end else [{"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    return Request({"method": "POST", "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}, receive)


def body(given: Request, bodies: Bodies) -> bytes:
    return asyncio.run(read(given, bodies))


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5), st.sampled_from(["", "gzip", "deflate", "raw"]))
def test_a_body_arrives_whole(parts, packed):
    whole = b"".join(parts)
    bodies = Bodies(1000, 2000)
    if packed:
        raw = zlib.compressobj(wbits=-15)
        data = {"gzip": gzip.compress(whole), "deflate": zlib.compress(whole), "raw": raw.compress(whole) + raw.flush()}[packed]
        assert body(request(data[:5], data[5:], content_encoding=packed.replace("raw", "deflate")), bodies) == whole
    else:
        assert body(request(*parts), bodies) == whole
    assert bodies.held == 0


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (request(b"x" * 101), 413),
        (request(b"x" * 60, b"x" * 60), 413),
        (request(b"x", b"", content_length="101"), 413),
        (request(gzip.compress(bytes(10**6)), content_encoding="gzip"), 413),
        (request(gzip.compress(b"x")[:-5], content_encoding="gzip"), 400),
        (request(b"x", content_encoding="gzip"), 400),
        (request(b"xyz", content_encoding="deflate"), 400),
        (request(b"x", content_encoding="br"), 415),
        (request(b"x", content_encoding="gzip, gzip"), 415),
    ],
)
def test_what_is_too_large_or_damaged(given, status):
    bodies = Bodies(10_000 if header_is_packed(given) and status != 413 else 100, 10_000)
    with pytest.raises(Problem) as caught:
        body(given, bodies)
    assert caught.value.status == status
    assert bodies.held == 0


def header_is_packed(given: Request) -> bool:
    return b"content-encoding" in given.headers


def test_a_bomb_is_not_unpacked_beyond_the_limit():
    with pytest.raises(Problem, match="larger than 1000 bytes"):
        unpack(gzip.compress(bytes(50_000_000)), b"gzip", 1000)


def test_the_bodies_of_all_requests_together_are_bounded():
    bodies = Bodies(100, 150, held=100)
    with pytest.raises(Problem) as caught:
        body(request(b"x" * 40, b"x" * 40), bodies)
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "1")
    assert bodies.held == 100


def test_a_client_that_goes_away():
    with pytest.raises(Gone):
        body(request(b"x", end=False), Bodies(100, 100))


@pytest.mark.parametrize(("limit", "pause"), [("STALLED", 60), ("SLOWEST", 0.001)])
def test_who_sends_too_slowly_gives_the_room_back(monkeypatch, limit, pause):
    monkeypatch.setattr(http, limit, 0.05)
    pauses = chain([0], repeat(pause))

    async def receive() -> Any:
        await asyncio.sleep(next(pauses))
        return {"type": "http.request", "body": b"x", "more_body": True}

    bodies = Bodies(10**6, 10**6)
    with pytest.raises(Problem, match="too slowly") as caught:
        body(Request({"method": "POST", "headers": []}, receive), bodies)
    assert (caught.value.status, caught.value.headers["Connection"], bodies.held) == (408, "close", 0)


@pytest.mark.parametrize(
    ("accepted", "way"),
    [
        ("gzip", "gzip"),
        ("deflate, gzip", "deflate"),
        ("gzip;q=0, deflate;q=0.5", "deflate"),
        ("br", ""),
        ("", ""),
        ("gzip;q=0.0", ""),
        ("GZIP", "gzip"),
    ],
)
def test_answers_are_packed_as_the_client_takes_them(accepted, way):
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    for size in (10, 5000):
        asyncio.run(reply(request(b"", accept_encoding=accepted), send, Answer(b"x" * size), b"abc"))
    headers = dict(sent[2]["headers"])
    assert sent[1]["body"] == b"x" * 10
    assert headers.get(b"content-encoding", b"").decode() == way
    unpacked = {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(way, bytes)(sent[3]["body"])
    assert unpacked == b"x" * 5000
    assert int(headers[b"content-length"]) == len(sent[3]["body"])
    assert headers[b"x-request-id"] == b"abc"
