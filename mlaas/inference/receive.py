"""What a client uploads goes to the disk as it comes: the parts of a form, or a bare body, within limits."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from mlaas.models.staging import is_full
from mlaas.sizes import write_size
from mlaas.web.problem import Problem

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

STALLED = 60.0  # s without a byte
MOST_PARTS = 20
TEXT = 2**20  # bytes of a field that is no file


@dataclass(slots=True)
class Part:
    """A part of a form. filename: as the client named the file, without folders; empty for a field."""

    filename: str
    path: Path

    def text(self, name: str) -> str:
        """The part as text. Raises Problem when it is too long or no text."""
        if self.path.stat().st_size > TEXT:
            raise Problem(413, f"{name} is larger than {TEXT} bytes", field=name)
        try:
            return self.path.read_text("utf-8")
        except UnicodeDecodeError:
            raise Problem(422, f"{name} is not a text", field=name) from None


@dataclass(frozen=True, slots=True)
class Limits:
    """size: the most bytes in all. free: bytes that must stay free on the disk."""

    size: int
    free: int


@dataclass(slots=True)
class _Form:
    """Writes the parts of a form as the parser finds them."""

    folder: Path
    parts: dict[str, Part] = field(default_factory=dict)
    _header: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _disposition: bytes = b""
    _file: BinaryIO | None = None

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._begin,
            "on_part_data": self._data,
            "on_part_end": self.close,
        }

    def _header_end(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _begin(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        filename = options.get(b"filename", b"").decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2]
        if name in self.parts or len(self.parts) >= MOST_PARTS:
            raise Problem(422, f"the form has the part {name!r} twice" if name in self.parts else f"the form has more than {MOST_PARTS} parts")
        part = self.parts[name] = Part(filename, self.folder / f"part-{len(self.parts)}")
        self._disposition = b""
        self._file = part.path.open("xb")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])

    def close(self) -> None:
        """End the part that is being written."""
        if self._file is not None:
            self._file.close()
            self._file = None


async def form(request: Request, folder: Path, limits: Limits) -> dict[str, Part]:
    """The parts of a form, by name, as files in a folder. Raises Problem: 400 (no form, cut off), 408, 413, 422, 507."""
    boundary = parse_options_header(request.headers.get("content-type", "").encode("latin-1"))[1].get(b"boundary")
    if not boundary:
        raise Problem(400, "the form has no boundary in its Content-Type")
    sink = _Form(folder)
    try:
        parser = MultipartParser(boundary, sink.callbacks())
        await _each(request, limits, folder, parser.write)
        parser.finalize()
    except FormParserError:
        raise Problem(400, "the body is not a form as its Content-Type says, or it is cut off") from None
    finally:
        sink.close()
    return sink.parts


async def body(request: Request, folder: Path, limits: Limits) -> Path:
    """The whole body as a file in a folder. Raises Problem: 400, 408, 413, 507."""
    path = folder / "body"
    with path.open("xb") as file:
        await _each(request, limits, folder, file.write)
    return path


async def _each(request: Request, limits: Limits, folder: Path, take: Callable[[bytes], object]) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limits.size:
        raise _too_large(limits)
    size, looked = 0, 0
    stream = request.stream().__aiter__()
    try:
        while True:
            chunk = await asyncio.wait_for(anext(stream), STALLED)
            size += len(chunk)
            if size > limits.size:
                raise _too_large(limits)
            if size >= looked:
                looked = size + 2**26
                await asyncio.to_thread(check_free, folder, limits.free)
            await asyncio.to_thread(take, chunk)
    except StopAsyncIteration:
        return
    except TimeoutError:
        raise Problem(408, f"the upload stood still for {STALLED:g} s") from None
    except ClientDisconnect:
        raise Problem(400, "the upload was cut off") from None
    except OSError as error:
        if is_full(error):
            raise Problem(507, "the disk of the service is full; the upload was not kept") from None
        raise


def check_free(folder: Path, free: int) -> None:
    """Raise Problem 507 when too little of the disk is free."""
    if shutil.disk_usage(folder).free < free:
        raise Problem(507, f"the disk of the service has less than {write_size(free)} free; the upload was not kept")


def _too_large(limits: Limits) -> Problem:
    return Problem(413, f"the upload is larger than {write_size(limits.size)}, which is the most that is taken", headers={"Connection": "close"})
