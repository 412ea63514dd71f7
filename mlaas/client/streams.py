"""Server-sent events, as the HTML standard describes their form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

LONGEST = 64 * 2**20


@dataclass(frozen=True)
class Message:
    """One event. id: the last one seen so far, "" for none. retry: seconds that the server wants between connections, where it said so."""

    kind: str
    data: str
    id: str = ""
    retry: float | None = None


def messages(pieces: Iterable[bytes]) -> Iterator[Message]:
    """The events of a stream of bytes; comments are dropped, an event that was cut off is not given."""
    kind, identifier, retry = "", "", None
    data: list[str] = []
    for line in _lines(pieces):
        if not line:
            if data:
                yield Message(kind or "message", "\n".join(data), identifier, retry)
            kind, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            data.append(value)
        elif name == "id" and "\0" not in value:
            identifier = value
        elif name == "retry" and value.isascii() and value.isdigit():
            retry = int(value) / 1000


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Lines that end with LF, CR or CR LF, and with nothing else: a log may hold what Unicode calls a line separator."""
    held = b""
    for piece in pieces:
        held += piece
        if len(held) > LONGEST:
            raise ValueError("a line of the stream is too long")
        whole = held[:-1] if held.endswith(b"\r") else held  # the LF of a CR LF may be yet to come
        end = max(whole.rfind(b"\n"), whole.rfind(b"\r")) + 1
        ready, held = held[:end], held[end:]
        lines = ready.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines[:-1]:
            yield line.decode("utf-8", "replace")
