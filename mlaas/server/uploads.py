"""Uploads: what a client sends goes to the disk as it comes, within limits, and leaves nothing behind when it is not wanted."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from mlaas.models.staging import is_full
from mlaas.server import metrics
from mlaas.server.deps import Context
from mlaas.sizes import write_size
from mlaas.web.problem import Problem

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

BATCH = 2**20
"""Bytes that are written at once, so that the event loop hands over to a thread seldom enough."""
STALLED = 60.0
"""Seconds without a single byte after which an upload is given up."""
MULTIPART = b"multipart/form-data"
MOST_TEXTS = 20
LONGEST_TEXT = 1000
"""Bytes of a text beside the file in a form; what is longer is cut off."""


@dataclass(frozen=True)
class Limits:
    """What an upload may be: bytes as sent, and bytes that must stay free on the disk."""

    size: int
    free: int


@dataclass(frozen=True)
class Upload:
    """A file that came whole. It is gone when the request is over, unless it was moved away."""

    path: Path
    filename: str
    size: int
    fields: dict[str, str] = field(default_factory=dict)
    """The other parts of the form, as far as they are short texts."""


def receive(request: Request, parts: Context, *, most: int | None = None) -> AbstractAsyncContextManager[Upload]:
    """`received` with the limits of the settings; most: a lower limit of bytes."""
    settings = parts.settings
    size = settings.upload_limit if most is None else min(most, settings.upload_limit)
    return received(request, parts.places.uploads, Limits(size, settings.free_disk))


@asynccontextmanager
async def received(request: Request, folder: Path, limits: Limits, *, part: str = "file") -> AsyncIterator[Upload]:
    """Give what the request carries as a file in `folder`: the part `part` of a form, or the whole body of another content type.

    Raises Problem: 400 (not a form, cut off), 408 (stalled), 413 (too large), 422 (no such part), 507 (disk full).
    """
    outcome = "refused"
    _check_length(request, limits)
    await run_in_threadpool(folder.mkdir, 0o700, True, True)
    path = folder / f"upload-{secrets.token_hex(16)}"
    try:
        with _made(path) as file:
            sink = _Sink(file, path, limits)
            await _check_free(path, limits)
            filename, fields = await _receive(request, sink, part)
            await sink.flush()
        outcome = "received"
        yield Upload(path, filename, sink.size, fields)
    finally:
        metrics.UPLOADS.labels(outcome).inc()
        with suppress(FileNotFoundError):
            await asyncio.shield(run_in_threadpool(path.unlink))


def _made(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb", buffering=0)


def _check_length(request: Request, limits: Limits) -> None:
    """Refuse what says of itself that it is too large before a byte of it is read; a form's few extra bytes are forgiven."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limits.size + BATCH:
        raise too_large(limits.size)


def too_large(limit: int) -> Problem:
    """The problem of an upload beyond its limit; the connection is closed, as nobody reads the rest."""
    return Problem(
        413, f"the upload is larger than {write_size(limit)}, which is the most that is allowed", field="file", headers={"Connection": "close"}
    )


async def _check_free(path: Path, limits: Limits) -> None:
    free = (await run_in_threadpool(shutil.disk_usage, path.parent)).free
    if free < limits.free:
        raise Problem(507, f"the disk of the service has less than {write_size(limits.free)} free; try again later, or tell its administrator")


class _Sink:
    """Collects bytes and writes them in batches from a thread."""

    def __init__(self, file: BinaryIO, path: Path, limits: Limits) -> None:
        self._file, self._path, self._limits = file, path, limits
        self._pending = bytearray()
        self._unchecked = 0
        self.size = 0

    def add(self, data: bytes) -> None:
        """Take bytes of the file. Raises Problem 413."""
        self.size += len(data)
        if self.size > self._limits.size:
            raise too_large(self._limits.size)
        self._pending += data

    async def settle(self) -> None:
        """Write when there is enough; look at the disk now and then."""
        if len(self._pending) >= BATCH:
            self._unchecked += len(self._pending)
            await self.flush()
        if self._unchecked >= 64 * BATCH:
            self._unchecked = 0
            await _check_free(self._path, self._limits)

    async def flush(self) -> None:
        """Write all that is pending."""
        data, self._pending = self._pending, bytearray()
        try:
            await run_in_threadpool(_write, self._file, data)
            metrics.UPLOADED.inc(len(data))
        except OSError as error:
            if is_full(error):
                raise Problem(507, "the disk of the service is full; try again later, or tell its administrator") from None
            raise


def _write(file: BinaryIO, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


async def _receive(request: Request, sink: _Sink, part: str) -> tuple[str, dict[str, str]]:
    """Receive the body; returns the file's name and the short texts that came with it."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != MULTIPART:
        async for chunk in _chunks(request):
            sink.add(chunk)
            await sink.settle()
        return "", {}
    form = _Form(part, sink.add)
    try:
        parser = MultipartParser(options.get(b"boundary", b""), form.callbacks())
        async for chunk in _chunks(request):
            parser.write(chunk)
            await sink.settle()
        parser.finalize()
    except FormParserError as error:
        raise Problem(400, f"the body is not a form as multipart/form-data writes it: {error}") from None
    return form.result(), form.texts()


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    stream = request.stream()
    try:
        while True:
            async with asyncio.timeout(STALLED):
                chunk = await anext(stream)
            if chunk:
                yield chunk
    except StopAsyncIteration:
        return
    except TimeoutError:
        raise Problem(408, f"nothing came for {STALLED:.0f} seconds; send the file again", headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise Problem(400, "the upload was cut off before its end; send the file again") from None


class _Form:
    """The one part of a form that counts; of the others the short texts are kept, the rest is read past."""

    def __init__(self, field: str, take: Callable[[bytes], None]) -> None:
        self._wanted, self._take = field, take
        self._headers: list[tuple[bytearray, bytearray]] = []
        self._inside = self._found = self._ended = False
        self._filename = ""
        self._texts: dict[str, bytearray] = {}
        self._text: bytearray | None = None

    def callbacks(self) -> MultipartCallbacks:
        """What the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_begin": lambda: self._headers.append((bytearray(), bytearray())),
            "on_header_field": lambda data, start, end: self._headers[-1][0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._headers[-1][1].extend(data[start:end]),
            "on_headers_finished": self._decide,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def result(self) -> str:
        """The file name that the client gave. Raises Problem when the part did not come, or not whole."""
        if not self._ended:
            raise Problem(400, "the form was cut off before its end; send the file again")
        if not self._found:
            raise Problem(422, f"the form has no file {self._wanted!r}", field=self._wanted)
        return self._filename

    def texts(self) -> dict[str, str]:
        """The short texts of the form by name."""
        return {name: bytes(text).decode(errors="replace") for name, text in self._texts.items()}

    def _begin(self) -> None:
        self._headers, self._inside, self._text = [], False, None

    def _decide(self) -> None:
        values = {bytes(name).lower(): bytes(value) for name, value in self._headers}
        _, options = parse_options_header(values.get(b"content-disposition"))
        name = options.get(b"name", b"").decode(errors="replace")
        if name != self._wanted:
            if len(self._texts) < MOST_TEXTS and len(name) <= LONGEST_TEXT:
                self._text = self._texts.setdefault(name, bytearray())
            return
        if self._found:
            raise Problem(422, f"the form has more than one file {self._wanted!r}", field=self._wanted)
        self._inside = self._found = True
        self._filename = options.get(b"filename", b"").decode(errors="replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._inside:
            self._take(data[start:end])
        elif self._text is not None:
            self._text += data[start : min(end, start + LONGEST_TEXT - len(self._text))]

    def _end(self) -> None:
        self._ended = True
