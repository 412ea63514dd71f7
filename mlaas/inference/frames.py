"""Messages between the workers and the processes of isolated models: a short JSON header and the bytes of tensors.

    4 bytes length of the header | 8 bytes length of the body | header | body        (little endian)

Nothing is ever unpickled: what a model's process answers is as hostile as the model.
"""

from __future__ import annotations

import json
import math
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlaas.errors import DataError
from mlaas.models.tensors import DTYPES, Array, name_of

PREFIX = struct.Struct("<IQ")
MAX_HEADER = 2**20
MAX_BODY = 2**31
MAX_RANK = 16


@dataclass(frozen=True, slots=True)
class Message:
    """One message: what the header says, and its tensors."""

    header: dict[str, Any]
    tensors: dict[str, Array] = field(default_factory=dict)


def pack(header: Mapping[str, Any], tensors: Mapping[str, Array] | None = None) -> list[bytes | memoryview]:
    """The parts of a message in the order in which they are sent."""
    parts = {name: _bytes(array) for name, array in (tensors or {}).items()}
    listed = [
        {"name": name, "dtype": name_of(array.dtype), "shape": list(array.shape), "size": len(parts[name])} for name, array in (tensors or {}).items()
    ]
    text = json.dumps({**header, "tensors": listed}).encode()
    return [PREFIX.pack(len(text), sum(map(len, parts.values()))) + text, *parts.values()]


def lengths(prefix: bytes) -> tuple[int, int]:
    """The lengths of header and body. Raises DataError when they are out of bounds."""
    header, body = PREFIX.unpack(prefix)
    if header > MAX_HEADER or body > MAX_BODY:
        raise DataError("a message of a model's process is too large")
    return header, body


def unpack(header: bytes, body: bytes) -> Message:
    """Take a message apart; the arrays are views of the body. Raises DataError for whatever does not fit together."""
    try:
        document = json.loads(header)
        listed = document.pop("tensors", [])
        tensors, start = {}, 0
        for entry in listed:
            tensors[str(entry["name"])] = _array(entry["dtype"], entry["shape"], body[start : start + entry["size"]])
            start += entry["size"]
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error):
        raise DataError("a message of a model's process is damaged") from None
    return Message(document, tensors)


def receive(connection: socket.socket) -> Message | None:
    """The next message of a blocking socket; None when the other side has ended. Raises DataError, OSError."""
    prefix = _exactly(connection, PREFIX.size)
    if prefix is None:
        return None
    sizes = lengths(prefix)
    parts = [_exactly(connection, size) for size in sizes]
    if parts[0] is None or parts[1] is None:
        return None
    return unpack(parts[0], parts[1])


def send(connection: socket.socket, header: Mapping[str, Any], tensors: Mapping[str, Array] | None = None) -> None:
    """Send a message through a blocking socket. Raises OSError."""
    for part in pack(header, tensors):
        connection.sendall(part)


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    buffer = bytearray(size)
    view, got = memoryview(buffer), 0
    while got < size:
        count = connection.recv_into(view[got:])
        if not count:
            return None
        got += count
    return bytes(buffer) if size < MAX_HEADER else buffer  # type: ignore[return-value]  # large ones are not copied


def _bytes(array: Array) -> bytes | memoryview:
    if array.dtype != object:
        return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8)) if array.size else b""  # type: ignore[arg-type]
    return b"".join(struct.pack("<I", len(item)) + item for item in map(_item, array.reshape(-1)))


def _item(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _array(dtype: str, shape: list[int], data: bytes) -> Array:
    if dtype not in DTYPES or len(shape) > MAX_RANK or any(not isinstance(size, int) or size < 0 for size in shape):
        raise DataError("a message of a model's process has a tensor of unknown kind")
    count = math.prod(shape)
    if dtype == "BYTES":
        return _strings(data, count).reshape(shape)
    kind = np.dtype(DTYPES[dtype])
    if len(data) != count * kind.itemsize:
        raise DataError("a message of a model's process has a tensor of the wrong size")
    return np.frombuffer(data, kind).reshape(shape)


def _strings(data: bytes, count: int) -> Array:
    items, start = [], 0
    while start < len(data):
        (size,) = struct.unpack_from("<I", data, start)
        items.append(bytes(data[start + 4 : start + 4 + size]))
        start += 4 + size
    if len(items) != count or start != len(data):
        raise DataError("a message of a model's process has a tensor of the wrong size")
    found = np.empty(count, object)
    found[:] = items
    return found
